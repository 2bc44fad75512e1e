//! The real hands: what the deployer needs, done by the engine.

use std::fs::OpenOptions;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{DiskError, durable};
use crate::engine::filter::Filter;
use crate::engine::options::{CreateOptions, HealthOptions};
use crate::engine::prune::{Kept, Pruned};
use crate::engine::pull::Reach;
use crate::engine::view::ContainerView;
use crate::engine::{Engine, EngineError};
use crate::image::pull::{Holds, Progress};
use crate::registry::names::Meaning;
use crate::store::{ImageRecord, StoreError};
use crate::types::app::{App, parse_volume};
use crate::types::bounds::{CONFIG_FILE_BYTES, SNAPSHOT_BYTES};
use crate::types::container::{Device, Mount, MountSource, Network, RestartPolicy, Status};
use crate::types::deployment::{BytesMoved, Reason};
use crate::types::digest::Digest;
use crate::types::ids::ContainerId;
use crate::types::network::{PortMapping, Wiring};
use crate::types::platform::Platform;
use crate::types::time::Unix;

use super::files;
use super::hands::{Cancel, Container, Failure, Fetched, Hands, LABEL_APP, LABEL_SPEC, Phase, Sink};
use super::watch::{Watcher, of_exit};

/// Where a container finds its update lock.
const LOCK_TARGET: &str = "/run/dunlin/update.lock";
/// The environment variable that says so.
const LOCK_VARIABLE: &str = "DUNLIN_UPDATE_LOCK";

/// With less than this free, bytes, a start that fails is the disk's fault.
const NO_ROOM_BYTES: u64 = 256 << 10;

/// The pin under which the store keeps the images of apps.
const PIN: &str = "apps";

/// The engine, as the deployer sees it.
pub struct EngineHands {
    engine: Arc<Engine>,
    watcher: Watcher,
    /// Images that are pulled and not pinned yet.
    holds: Holds,
    /// Images that this process has pinned, on the device.
    pinned: Mutex<Option<Vec<Digest>>>,
}

impl EngineHands {
    /// Hands over this engine; starts the thread that listens to containers.
    pub fn new(engine: Arc<Engine>) -> io::Result<EngineHands> {
        let watcher = Watcher::start(Arc::clone(&engine))?;
        Ok(EngineHands {
            engine,
            watcher,
            holds: Holds::default(),
            pinned: Mutex::default(),
        })
    }

    fn view(&self, id: &ContainerId) -> Result<Option<ContainerView>, Failure> {
        match self.engine.inspect(&id.hex()) {
            Ok(view) => Ok(Some(view)),
            Err(error) if error.is_no_container() => Ok(None),
            Err(error) => Err(failure(&error)),
        }
    }

    fn image(&self, manifest: &Digest) -> Result<ImageRecord, Failure> {
        let images = self.engine.images().map_err(|e| failure(&e))?;
        let found = images.into_iter().find(|image| image.manifest == *manifest);
        found.ok_or_else(|| {
            Failure::new(
                Reason::ImageMissing,
                format!("no image with the manifest `{manifest}` here"),
            )
        })
    }
}

impl Hands for EngineHands {
    fn engine(&self) -> Option<Arc<Engine>> {
        Some(self.engine.clone())
    }

    fn containers(&self) -> Result<Vec<Container>, Failure> {
        app_containers(&self.engine)
    }

    fn fetch(
        &self,
        image: &str,
        rate: Option<NonZeroU64>,
        cancel: &Cancel,
        progress: &mut dyn FnMut(BytesMoved),
    ) -> Result<Fetched, Failure> {
        let reference = match self.engine.resolve(image) {
            Ok(Meaning::One(reference)) => reference,
            Ok(Meaning::Ambiguous(_)) => {
                return Err(Failure::new(
                    Reason::ImageMissing,
                    format!("`{image}` may mean several images"),
                ));
            }
            Err(error) => return Err(failure(&error)),
        };
        // Of `localhost` is what was loaded or tagged on the device.
        if (reference.digest().is_some() || reference.registry() == "localhost")
            && let Ok(found) = self.engine.image(&reference.to_string())
        {
            let bytes = BytesMoved {
                fetched: 0,
                reused: found.size,
                total: found.size,
            };
            return Ok(Fetched {
                image: found.manifest,
                bytes,
            });
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let found = std::thread::scope(|scope| {
            // The engine wants a sink that may cross threads; the deployer's may not.
            let pull = scope.spawn(move || {
                let mut sum = Sum::default();
                let mut tell = |event: Progress| {
                    if sum.add(event) {
                        // Nobody listens any more only when the deployer is gone.
                        let _ = sender.send(sum.bytes());
                    }
                };
                let reach = Reach {
                    holds: Some(self.holds.clone()),
                    rate,
                    ..Reach::default()
                };
                let image = self.engine.pull(&reference, &reach, &mut tell);
                image.map(|image| (image, sum.bytes()))
            });
            for bytes in receiver {
                progress(bytes);
            }
            pull.join()
        });
        match found {
            Ok(Ok((image, bytes))) => Ok(Fetched {
                image: image.manifest,
                bytes,
            }),
            Ok(Err(_)) if cancel.is_cancelled() => {
                Err(Failure::new(Reason::Interrupted, "a newer document took its place"))
            }
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::new(Reason::Internal, "the pull's thread panicked")),
        }
    }

    fn latest(&self, image: &str, signed: bool) -> Result<Digest, Failure> {
        latest(&self.engine, image, signed)
    }

    fn keep(&self, images: &[Digest]) -> Result<(), Failure> {
        let here = self.engine.images().map_err(|e| failure(&e))?;
        let kept = here.iter().filter(|image| images.contains(&image.manifest));
        let ids: Vec<Digest> = kept.map(|image| image.id).collect();
        let store = self.engine.store();
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        // An update to images that are kept already costs no sync.
        if pinned.as_ref() != Some(&ids) || !store.is_pinned(PIN, &ids).unwrap_or(false) {
            *pinned = None;
            store.pin(PIN, &ids).map_err(|e| failure(&EngineError::Store(e)))?;
            *pinned = Some(ids);
        }
        // What is not pinned now is not wanted any more.
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    fn sweep(&self, idle: bool) -> Result<(), Failure> {
        self.engine.sweep_all(idle).map_err(|e| failure(&e))
    }

    fn create(&self, app: &App, image: &Digest, name: &str) -> Result<Container, Failure> {
        let found = self.image(image)?;
        let by_name = self.engine.image(&app.image).is_ok_and(|named| named.id == found.id);
        let mut options = options(app, name, &|device| {
            self.engine.board().devices.iter().any(|d| d == device)
        })?;
        if app.update.lock {
            let agent = self.engine.layout().agent();
            let file = lock_file(&agent, &app.name).map_err(|error| failure(&EngineError::Disk(error)))?;
            options.mounts.push(Mount {
                source: MountSource::Bind(file.to_string_lossy().into_owned()),
                target: LOCK_TARGET.into(),
                read_only: true,
                options: Vec::new(),
            });
            options.env.push(format!("{LOCK_VARIABLE}={LOCK_TARGET}"));
        }
        for secret in &app.secrets {
            let file = self.engine.layout().secret_files().join(secret);
            if !file.exists() {
                let text = format!("app `{}`: secret `{secret}` is not on this device", app.name);
                return Err(Failure::new(Reason::StartFailed, text));
            }
            options.mounts.push(Mount {
                source: MountSource::Bind(file.to_string_lossy().into_owned()),
                target: format!("/run/secrets/{secret}"),
                read_only: true,
                options: Vec::new(),
            });
        }
        options.image = if by_name { app.image.clone() } else { found.id.hex() };
        let made = self.engine.create(&options).map_err(|e| failure(&e))?;
        let view = self.view(&made.id)?;
        let made = view.as_ref().and_then(container);
        made.ok_or_else(|| {
            Failure::new(
                Reason::Internal,
                format!("container `{name}` vanished after its creation"),
            )
        })
    }

    fn start(&self, id: &ContainerId) -> Result<(), Failure> {
        match self.engine.start(&id.hex(), None) {
            Ok(_) => Ok(()),
            Err(error) if error.refusal().is_some() => {
                // A full disk shows in many ways; none of them is the version's fault.
                let full = self.engine.store().free().is_ok_and(|free| free < NO_ROOM_BYTES);
                let code = if full { Reason::Disk } else { Reason::StartFailed };
                Err(Failure::new(code, error.to_string()))
            }
            Err(error) => Err(on(id, &error)),
        }
    }

    fn stop(&self, id: &ContainerId) -> Result<(), Failure> {
        match self.view(id)? {
            Some(view) if view.status.is_live() => self.engine.stop(&id.hex(), None).map(drop).map_err(|e| failure(&e)),
            _ => Ok(()),
        }
    }

    fn remove(&self, id: &ContainerId) -> Result<(), Failure> {
        match self.engine.remove(&id.hex(), true, true, None) {
            Ok(_) => Ok(()),
            Err(error) if error.is_no_container() => Ok(()),
            Err(error) => Err(failure(&error)),
        }
    }

    fn rename(&self, id: &ContainerId, name: &str) -> Result<(), Failure> {
        match self.view(id)? {
            Some(view) if view.record.name == name => Ok(()),
            _ => self.engine.rename(&id.hex(), name).map(drop).map_err(|e| on(id, &e)),
        }
    }

    fn room(&self, volumes: &[String]) -> Result<(), Failure> {
        let large =
            |error: &EngineError| matches!(error, EngineError::SnapshotRoom { need, .. } if *need > SNAPSHOT_BYTES);
        self.engine.snapshot_room(volumes).map_err(|error| Failure {
            // No waiting makes room for what is larger than anything that is copied.
            later: !large(&error),
            ..failure(&error)
        })
    }

    fn save(&self, volumes: &[String], tag: &str) -> Result<(), Failure> {
        self.engine.snapshot_save(volumes, tag).map_err(|error| failure(&error))
    }

    fn tidy(&self, full: bool) -> Result<(), Failure> {
        let mark = self.engine.layout().full();
        if !full {
            // It is not there where the device was restarted meanwhile.
            let _ = std::fs::remove_file(mark);
            return Ok(());
        }
        let marked = std::fs::write(&mark, "").map_err(EngineError::io("write", &mark));
        marked.map_err(|error| failure(&error))?;
        let (pruned, done) = prune(&self.engine)?;
        crate::info!(
            "{} images removed, {} bytes are free again",
            pruned.images.len(),
            pruned.bytes
        );
        done
    }

    fn restore(&self, tag: &str) -> Result<(), Failure> {
        self.engine.snapshot_restore(tag).map_err(|error| failure(&error))
    }

    fn forget(&self, keep: &[String]) -> Result<(), Failure> {
        self.engine.snapshot_forget(keep).map_err(|error| failure(&error))
    }

    fn watch(&self, id: &ContainerId, sink: Sink) -> Result<(), Failure> {
        self.watcher.add(&self.engine, *id, sink).map_err(|e| on(id, &e))
    }
}

/// See [`Hands::latest`].
pub fn latest(engine: &Engine, image: &str, signed: bool) -> Result<Digest, Failure> {
    let found = engine.resolve(image).and_then(|meaning| {
        let reference = meaning.sure(image)?;
        if signed && !engine.asks_for_signatures(&reference)? {
            return Ok(None);
        }
        let remote = engine.remote(&reference, &Reach::default())?;
        let image = remote.image(remote.manifest()?, &Platform::host())?;
        Ok(Some(image.manifest.digest))
    });
    match found {
        Ok(Some(digest)) => Ok(digest),
        Ok(None) => {
            let text = format!(
                "`{image}`: this device has fleet keys, so tags are only followed where policy.json asks for signatures"
            );
            Err(Failure::new(Reason::Verify, text))
        }
        Err(error) => Err(failure(&error)),
    }
}

/// Every container of an app.
pub fn app_containers(engine: &Engine) -> Result<Vec<Container>, Failure> {
    let views = engine.list(&Filter::default(), Unix(0)).map_err(|e| failure(&e))?;
    Ok(views.iter().filter_map(container).collect())
}

/// Removes images that nothing needs: what went before a failure, and that.
pub fn prune(engine: &Engine) -> Result<(Pruned, Result<(), Failure>), Failure> {
    let kept = kept(engine).map_err(|error| failure(&EngineError::Disk(error)))?;
    let mut pruned = Pruned::default();
    let done = engine.prune_images(true, &kept, &|_| true, &mut pruned);
    Ok((pruned, done.map_err(|error| failure(&error))))
}

/// What the agent's sets name: its apps run, or are what a rollback goes back to.
pub fn kept(engine: &Engine) -> Result<Kept, DiskError> {
    let mut kept = Kept {
        label: LABEL_APP.to_owned(),
        ..Kept::default()
    };
    for one in files::known_apps(&engine.layout().agent())? {
        kept.images.extend(one.image);
        let sources = one.app.volumes.iter().filter_map(|text| parse_volume(text).ok());
        kept.volumes.extend(sources.map(|volume| volume.source));
    }
    Ok(kept)
}

fn container(view: &ContainerView) -> Option<Container> {
    let record = &view.record;
    let label = |name: &str| record.spec.labels.get(name);
    Some(Container {
        id: record.id,
        name: record.name.clone(),
        app: label(LABEL_APP)?.clone(),
        spec: label(LABEL_SPEC)?.parse().ok()?,
        image: record.manifest,
        health_check: record.spec.health.clone(),
        phase: phase(view),
        not_enforced: record.not_enforced.clone(),
    })
}

fn phase(view: &ContainerView) -> Phase {
    match (view.status, &view.exit) {
        (Status::Created, _) => Phase::Created,
        (Status::Running | Status::Paused | Status::Stopping | Status::Restarting, _) => Phase::Running {
            since: view.started.unwrap_or_default(),
            health: view.health,
        },
        (Status::Exited, Some(exit)) => Phase::Ended(of_exit(exit)),
        (Status::Exited | Status::Dead, _) => Phase::Lost,
    }
}

/// A failure on a container that may be gone.
fn on(id: &ContainerId, error: &EngineError) -> Failure {
    if error.is_no_container() {
        Failure::gone(id)
    } else {
        failure(error)
    }
}

/// The reason of the protocol for an error of the engine.
pub fn failure(error: &EngineError) -> Failure {
    let code = match error {
        EngineError::Pull(pull) => pull.code(),
        EngineError::Registry(registry) => registry.code(),
        EngineError::Artifact { .. } => Reason::Schema,
        EngineError::NotEnforced(_) => Reason::LimitsUnavailable,
        EngineError::AboveMaximum { .. } => Reason::Budget,
        EngineError::Options(_) | EngineError::BindSource { .. } | EngineError::BadName(_) => Reason::Schema,
        EngineError::Spec(_) | EngineError::NoHelper(_) => Reason::StartFailed,
        EngineError::Name(_) | EngineError::ImageGone { .. } => Reason::ImageMissing,
        EngineError::Store(StoreError::NotFound { .. }) => Reason::ImageMissing,
        EngineError::Disk(disk) | EngineError::Store(StoreError::Disk(disk)) if disk.is_full() => Reason::Disk,
        EngineError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Reason::Disk,
        EngineError::Worker { source, .. } if source.is_full() => Reason::Disk,
        EngineError::SnapshotRoom { .. } => Reason::Disk,
        EngineError::NameTaken { .. } => Reason::Conflict,
        _ => Reason::Internal,
    };
    Failure::new(code, error.to_string())
}

/// An app as the engine's wishes. `granted` tells which devices the board grants.
fn options(app: &App, name: &str, granted: &dyn Fn(&str) -> bool) -> Result<CreateOptions, Failure> {
    let refuse = |text: String| Failure::new(Reason::Schema, format!("app `{}`: {text}", app.name));
    if let Some(device) = app.devices.iter().find(|d| !granted(d.split(':').next().unwrap_or(""))) {
        return Err(refuse(format!("device `{device}` is not granted by the board")));
    }
    let ports = app.ports.iter().map(|port| port.parse::<PortMapping>());
    let ports = ports
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refuse(format!("ports: {error}")))?;
    let network = app.network.unwrap_or(match ports.is_empty() {
        true => Network::None,
        false => Network::Private,
    });
    let mut env = Vec::new();
    for file in &app.env_file {
        env.extend(env_file(file).map_err(&refuse)?);
    }
    env.extend(app.env.iter().map(|(key, value)| format!("{key}={value}")));
    let mut mounts = Vec::new();
    for volume in &app.volumes {
        let volume = parse_volume(volume).map_err(&refuse)?;
        let source = if volume.source.starts_with('/') {
            MountSource::Bind(volume.source)
        } else {
            MountSource::Volume(volume.source)
        };
        mounts.push(Mount {
            source,
            target: volume.target,
            read_only: volume.read_only,
            options: volume.options,
        });
    }
    for tmpfs in &app.tmpfs {
        let (target, rest) = tmpfs.split_once(':').unwrap_or((tmpfs, ""));
        let words = rest
            .split(',')
            .filter(|o| !o.is_empty() && *o != "ro" && *o != "rw")
            .map(str::to_owned);
        mounts.push(Mount {
            source: MountSource::Tmpfs,
            target: target.to_owned(),
            read_only: rest.split(',').any(|o| o == "ro"),
            options: words.collect(),
        });
    }
    let device = |text: &String| {
        let mut parts = text.splitn(3, ':');
        let host = parts.next().unwrap_or("").to_owned();
        let container = parts.next().map_or(host.clone(), str::to_owned);
        Device {
            host,
            container,
            access: parts.next().unwrap_or("rwm").to_owned(),
        }
    };
    let mut labels = app.labels.clone();
    labels.insert(LABEL_APP.into(), app.name.clone());
    labels.insert(LABEL_SPEC.into(), app.spec_digest().to_string());
    Ok(CreateOptions {
        name: Some(name.to_owned()),
        entrypoint: app.entrypoint.clone(),
        command: app.command.clone().unwrap_or_default(),
        env,
        workdir: app.workdir.clone(),
        user: app.user.clone(),
        hostname: Some(app.hostname.clone().unwrap_or_else(|| app.name.clone())),
        mounts,
        network: Some(network),
        wiring: Wiring {
            ports,
            ..Wiring::default()
        },
        read_only: app.read_only,
        limits: app.limits.clone(),
        no_new_privs: true,
        devices: app.devices.iter().map(device).collect(),
        restart: RestartPolicy::No,
        health: HealthOptions {
            check: app.health.clone(),
            ..HealthOptions::default()
        },
        labels,
        ..CreateOptions::default()
    })
}

/// The file that an app locks, made where it is missing. Reading it is enough to lock it.
fn lock_file(agent: &Path, app: &str) -> Result<PathBuf, DiskError> {
    let path = files::lock_file(agent, app);
    durable::create_dirs(path.parent().unwrap_or(agent))?;
    let made = OpenOptions::new().append(true).create(true).mode(0o644).open(&path);
    made.map_err(DiskError::io("create", &path))?;
    Ok(path)
}

/// `NAME=value` lines of a file; blank lines and those that begin with `#` are left out.
fn env_file(path: &str) -> Result<Vec<String>, String> {
    let bytes = durable::read(path.as_ref(), CONFIG_FILE_BYTES as u64).map_err(|e| format!("`env_file`: {e}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("`env_file` `{path}` is not UTF-8"))?;
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    let bad = |l: &str| {
        format!(
            "`env_file` `{path}`: `{}` is not NAME=value",
            l.chars().take(40).collect::<String>()
        )
    };
    lines
        .map(|l| {
            if l.find('=').is_some_and(|at| at > 0) {
                Ok(l.to_owned())
            } else {
                Err(bad(l))
            }
        })
        .collect()
}

/// Bytes of one pull, summed over its layers.
#[derive(Default)]
struct Sum {
    layers: Vec<(Digest, u64)>,
    fetched: Vec<u64>,
    reused: Vec<bool>,
}

impl Sum {
    /// Takes an event in; true when the sum changed.
    fn add(&mut self, event: Progress) -> bool {
        let at = |layers: &[(Digest, u64)], digest: &Digest| layers.iter().position(|(d, _)| d == digest);
        match event {
            Progress::Layers(layers) => {
                self.fetched = vec![0; layers.len()];
                self.reused = vec![false; layers.len()];
                self.layers = layers;
                true
            }
            Progress::Exists(digest) => at(&self.layers, &digest).is_some_and(|i| {
                self.reused[i] = true;
                true
            }),
            Progress::Fetched(digest, bytes) => at(&self.layers, &digest).is_some_and(|i| {
                self.fetched[i] = bytes;
                true
            }),
            Progress::Waits(_) | Progress::Done(_) => false,
        }
    }

    fn bytes(&self) -> BytesMoved {
        let reused = self
            .layers
            .iter()
            .zip(&self.reused)
            .filter(|(_, r)| **r)
            .map(|((_, size), _)| size);
        BytesMoved {
            fetched: self.fetched.iter().sum(),
            reused: reused.sum(),
            total: self.layers.iter().map(|(_, size)| size).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(text: &str) -> App {
        crate::types::read::toml(&format!("name='web'\nimage='r.example/web:1'\n{text}")).unwrap()
    }

    #[test]
    fn an_app_becomes_wishes_with_its_labels_and_no_new_privileges() {
        let app = app("command=['a']\nvolumes=['data:/d:ro','/h:/x']\ntmpfs=['/tmp:size=1m,ro']\n[env]\nA='1'");
        let wishes = options(&app, "web.next", &|_| false).unwrap();
        assert_eq!(wishes.name.as_deref(), Some("web.next"));
        assert_eq!(
            wishes.hostname.as_deref(),
            Some("web"),
            "also while it is staged under another name"
        );
        assert!(wishes.no_new_privs);
        assert_eq!(wishes.env, ["A=1"]);
        assert_eq!(wishes.labels[LABEL_SPEC], app.spec_digest().to_string());
        assert_eq!(wishes.mounts.len(), 3);
        assert_eq!(wishes.mounts[0].source, MountSource::Volume("data".into()));
        assert!(wishes.mounts[0].read_only && wishes.mounts[2].read_only);
        assert_eq!(wishes.mounts[2].options, ["size=1m"]);
    }

    #[test]
    fn what_does_not_exist_is_refused_before_anything_is_done() {
        for text in ["devices=['/dev/sda']", "env_file=['/nonexistent']"] {
            let refused = options(&app(text), "web", &|_| false).unwrap_err();
            assert_eq!(refused.cause.code, Reason::Schema, "{text}");
        }
        for (text, network, ports) in [
            ("", Network::None, 0),
            ("ports=['80:80','53/udp']", Network::Private, 2),
            ("network='private'", Network::Private, 0),
            ("network='host'", Network::Host, 0),
        ] {
            let wishes = options(&app(text), "web", &|_| false).unwrap();
            assert_eq!(
                (wishes.network, wishes.wiring.ports.len()),
                (Some(network), ports),
                "{text}"
            );
        }
        assert!(options(&app("devices=['/dev/gpiochip0']"), "web", &|d| d == "/dev/gpiochip0").is_ok());
    }

    #[test]
    fn bytes_are_summed_over_layers() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let mut sum = Sum::default();
        sum.add(Progress::Layers(vec![(a, 10), (b, 20)]));
        sum.add(Progress::Exists(a));
        sum.add(Progress::Fetched(b, 5));
        sum.add(Progress::Fetched(b, 15));
        assert_eq!(
            sum.bytes(),
            BytesMoved {
                fetched: 15,
                reused: 10,
                total: 30
            }
        );
    }
}
