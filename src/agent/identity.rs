//! Who this device is: its name, its boots counted, this agent's session, what it can do.

use std::fs;
use std::path::Path;

use crate::config::agent::Settings;
use crate::disk::record::{self, Record, kinds};
use crate::disk::{DiskError, durable};
use crate::plan::order::VERBS;
use crate::sys::clock;
use crate::sys::footprint::meminfo;
use crate::types::bounds::DOCUMENT_BYTES;
use crate::types::digest;
use crate::types::document::{Caps, Encoding};
use crate::types::platform::Platform;
use crate::types::text::is_name;

/// This version, as presence and capabilities say it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Boots of this device as its data folder has seen them.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Boots {
    /// Counted from 1.
    pub count: u64,
    /// The kernel's boot id of the last one.
    pub id: String,
    /// Sessions of this device's agents, the newest last.
    pub sessions: Vec<String>,
}

/// Sessions that a device remembers as its own: more than an hour of restarts every two minutes.
const SESSIONS: usize = 32;

impl Record for Boots {
    const KIND: u16 = kinds::BOOT;
}

/// A device's name or id that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Neither a configured name nor a usable host name.
    #[error("host name `{0}` is not usable as a device name ([a-z0-9][a-z0-9_-]{{0,62}}); set `device.name`")]
    Name(String),
    /// The kernel gives no random bytes or no boot id.
    #[error("{0}")]
    Kernel(String),
    /// The boot record.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Who this device and this agent are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Device name.
    pub device: String,
    /// Boots counted.
    pub boot: u64,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// One per agent start.
    pub session: String,
    /// This one and those of earlier agents of this device.
    pub sessions: Vec<String>,
}

impl Identity {
    /// Reads the names, counts the boot; the count is on disk when this returns.
    pub fn establish(settings: &Settings, agent_dir: &Path) -> Result<Identity, IdentityError> {
        let device = device_name(settings)?;
        let id = clock::boot_id().to_owned();
        if id.is_empty() {
            return Err(IdentityError::Kernel("the kernel tells no boot id".into()));
        }
        let path = agent_dir.join("boot");
        // A damaged counter begins anew: it is for people and for soak, both of which bear a restart of the count.
        let mut boots: Boots = match record::read_optional(&path) {
            Ok(boots) => boots.unwrap_or_default(),
            Err(error) => {
                crate::warn!("{error}; boots are counted from 1 again");
                Boots::default()
            }
        };
        if boots.id != id {
            boots.count += 1;
            boots.id = id;
        }
        let mut random = [0; 16];
        clock::random(&mut random).map_err(|e| IdentityError::Kernel(format!("random bytes: {e}")))?;
        let session = digest::hex(&random);
        boots.sessions.push(session.clone());
        let old = boots.sessions.len().saturating_sub(SESSIONS);
        boots.sessions.drain(..old);
        record::write(&path, &boots)?;
        let Boots { count, id, sessions } = boots;
        Ok(Identity {
            device,
            boot: count,
            boot_id: id,
            session,
            sessions,
        })
    }
}

/// The configured name, else the host's.
pub fn device_name(settings: &Settings) -> Result<String, IdentityError> {
    if let Some(name) = &settings.device.name {
        return Ok(name.clone());
    }
    let host = read_line("/proc/sys/kernel/hostname");
    let name = host.split('.').next().unwrap_or("").to_ascii_lowercase();
    if is_name(&name) {
        Ok(name)
    } else {
        Err(IdentityError::Name(host))
    }
}

/// What the device can do; `disk` is the size of the data folder's file system in bytes.
pub fn caps(board: &str, disk: u64, cgroup: &str) -> Caps {
    let memory = meminfo("MemTotal").unwrap_or(0);
    let os = read_text("/etc/os-release")
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME=").map(|v| v.trim_matches('"').to_owned()))
        .unwrap_or_else(|| "Linux".into());
    Caps {
        protocol: vec![1],
        agent: VERSION.into(),
        verbs: VERBS.map(str::to_owned).to_vec(),
        document_bytes: DOCUMENT_BYTES,
        encodings: Encoding::words(),
        keys: Vec::new(),
        key_version: 0,
        board: board.into(),
        platform: Platform::host().to_string(),
        kernel: read_line("/proc/sys/kernel/osrelease"),
        os,
        memory,
        disk,
        serial: serial(),
        cgroup: cgroup.into(),
        signing: String::new(),
        sealing: String::new(),
    }
}

/// The serial number of the hardware, where it tells one.
pub fn serial() -> Option<String> {
    let places = [
        "/sys/firmware/devicetree/base/serial-number",
        "/sys/class/dmi/id/product_serial",
    ];
    let mut serials = places.iter().map(|path| read_line(path).trim_matches('\0').to_owned());
    serials.find(|serial| !serial.is_empty())
}

/// The first line of a small file of the kernel or the system; empty when it cannot be read.
pub(super) fn read_line(path: &str) -> String {
    read_text(path).lines().next().unwrap_or("").trim().to_owned()
}

fn read_text(path: &str) -> String {
    match durable::read(Path::new(path), 64 << 10) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => fs::read_to_string(path).unwrap_or_default(),
    }
}
