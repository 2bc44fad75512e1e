//! What systemd gave whoever starts a container, for the container: sockets that its program serves (sd_listen_fds(3)), and
//! where it is told that the program is ready (sd_notify(3)).

use super::EngineError;
use crate::config::env;
use crate::monitor::handed::relay;
use crate::sys::{process, socket};
use crate::types::container::{ContainerRecord, Notify};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// Name, in a container's run directory, of the folder that holds its socket for messages.
const FOLDER: &str = "notify";
/// The socket's name in it.
const NAME: &str = "notify.sock";
/// Sockets at the most: they go to the monitor in one message, with three others.
const SOCKETS: usize = socket::MAX_FDS - 3;

/// What this process was given.
#[derive(Debug, Default)]
pub struct Handing {
    /// Connected to where readiness is told.
    notify: Option<UnixDatagram>,
    sockets: Vec<OwnedFd>,
    /// How many of them are systemd's, and their names.
    listen: (usize, String),
    /// This process stays as long as the container runs, and so passes on the container's messages itself: to systemd only
    /// what comes from a unit's own processes counts.
    pub stays: bool,
}

/// For one start.
pub struct Ready {
    /// The folder with the socket that the program finds; none where it is given none.
    pub folder: Option<PathBuf>,
    /// What goes to the monitor after the session.
    pub fds: Vec<OwnedFd>,
    /// How many of those for the program are systemd's, and their names.
    pub sockets: (usize, String),
    /// What this process relays.
    kept: Option<(UnixDatagram, UnixDatagram)>,
}

impl Handing {
    /// With so many further descriptors that the program gets. To be called once, before this process opens anything that its
    /// children could inherit.
    pub fn of_caller(stays: bool, further: u16) -> io::Result<Handing> {
        let number = |name| env::get(name).and_then(|text| text.to_str()?.parse::<usize>().ok());
        let own = number(env::LISTEN_PID) == Some(std::process::id() as usize);
        let listen = number(env::LISTEN_FDS).filter(|_| own).unwrap_or(0);
        let count = listen.saturating_add(further.into());
        if count > SOCKETS {
            return Err(io::Error::other(format!(
                "LISTEN_FDS, --preserve-fds: {count} descriptors are more than the {SOCKETS} that a container can be given"
            )));
        }
        let sockets = (3..).take(count).map(process::inherited).collect::<io::Result<_>>();
        let names = env::get(env::LISTEN_FDNAMES).unwrap_or_default();
        Ok(Handing {
            notify: upstream(),
            sockets: sockets.map_err(|error| {
                io::Error::other(format!("LISTEN_FDS, --preserve-fds: descriptor not open: {error}"))
            })?,
            listen: (listen, names.to_string_lossy().into_owned()),
            stays,
        })
    }

    /// Prepares a start; none where nothing is handed over. `own` gives a file to the containers' root.
    pub(super) fn ready(
        &self,
        record: &ContainerRecord,
        run_dir: &Path,
        own: impl Fn(&Path) -> Result<(), EngineError>,
    ) -> Result<Option<Ready>, EngineError> {
        let upstream = self
            .notify
            .as_ref()
            .filter(|_| record.extras.notify == Notify::Container);
        if upstream.is_none() && self.sockets.is_empty() {
            return Ok(None);
        }
        let folder = run_dir.join(FOLDER);
        let failed = EngineError::io("hand over to the container by", &folder);
        let pair = upstream.map(|to| -> Result<_, EngineError> {
            let from = listen(&folder)?;
            own(&folder)?;
            own(&folder.join(NAME))?;
            Ok((from, to.try_clone().map_err(EngineError::io("copy", &folder))?))
        });
        let pair = pair.transpose()?;
        let folder = pair.is_some().then(|| folder.clone());
        let (kept, passed) = if self.stays { (pair, None) } else { (None, pair) };
        let sockets = &self.sockets;
        let fds = || -> io::Result<Vec<OwnedFd>> {
            let mut fds = match passed {
                Some((from, to)) => vec![from.into(), to.into()],
                None => vec![nothing()?, nothing()?],
            };
            for socket in sockets {
                fds.push(socket.try_clone()?);
            }
            Ok(fds)
        };
        Ok(Some(Ready {
            folder,
            fds: fds().map_err(failed)?,
            sockets: self.listen.clone(),
            kept,
        }))
    }

    /// It runs: who counts as the main process from now on, and that it is ready where its program does not say so itself.
    /// `monitor` is looked for where its number is told.
    pub(super) fn runs(&self, record: &ContainerRecord, monitor: impl FnOnce() -> Option<i32>) {
        let Some(to) = self.notify.as_ref().filter(|_| record.extras.notify != Notify::Nobody) else {
            return;
        };
        let main = if self.stays { None } else { monitor() };
        let main = main.map(|pid| format!("MAINPID={pid}"));
        let ready = (record.extras.notify == Notify::Started).then(|| "READY=1".to_owned());
        let message: Vec<String> = main.into_iter().chain(ready).collect();
        if !message.is_empty() {
            // Whoever does not listen any more need not know.
            let _ = to.send(message.join("\n").as_bytes());
        }
    }
}

impl Ready {
    /// The descriptors of a start with this session.
    pub(super) fn with<'a>(&'a self, attach: BorrowedFd<'a>) -> Vec<BorrowedFd<'a>> {
        std::iter::once(attach)
            .chain(self.fds.iter().map(|fd| fd.as_fd()))
            .collect()
    }

    /// Relays what is relayed here, as long as this process lives.
    pub(super) fn relay(self) {
        if let Some((from, to)) = self.kept {
            std::thread::spawn(move || while relay(&from, &to, None).is_ok() {});
        }
    }
}

/// A socket whose other end is closed.
pub(super) fn nothing() -> io::Result<OwnedFd> {
    socket::pair().map(|(one, _)| one)
}

/// Connected to `NOTIFY_SOCKET`.
fn upstream() -> Option<UnixDatagram> {
    let name = env::get(env::NOTIFY_SOCKET)?;
    let connect = || {
        let socket = UnixDatagram::unbound()?;
        match name.as_bytes().strip_prefix(b"@") {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(&name)?,
        }
        Ok::<_, io::Error>(socket)
    };
    connect()
        .inspect_err(|error| crate::warn!("NOTIFY_SOCKET `{}`: {error}", name.display()))
        .ok()
}

/// Listens in a new folder for messages of the container's users, whoever they are.
fn listen(folder: &Path) -> Result<UnixDatagram, EngineError> {
    let failed = || EngineError::io("listen in", folder);
    super::start::make_dir(folder)?;
    // The folder above is closed to everybody else.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(failed())?;
    let path = folder.join(NAME);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed()(error));
    }
    let dir = fs::File::open(folder).map_err(failed())?;
    // Addresses of sockets are short.
    let short = format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd());
    let socket = UnixDatagram::bind(short).map_err(failed())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(failed())?;
    Ok(socket)
}
