//! Starting: root file system and OCI bundle are made ready, the keeper starts the monitor, the monitor the container.

use super::doctor::at_least;
use super::handing::{self, Handing};
use super::index;
use super::view::{self, ContainerView};
use super::{Engine, EngineError, now, volume};
use crate::disk::lock::{Lock, Mode};
use crate::disk::{durable, record as disk_record};
use crate::image::worker;
use crate::monitor::network::{self, Plan};
use crate::monitor::wire::{self as monitor, MonitorConfig, Root, Size};
use crate::runtime::etc;
use crate::runtime::spec::{self, HostFacts};
use crate::store::ImageRecord;
use crate::sys::path;
use crate::types::container::{ContainerRecord, MountSource, Network, Status};
use crate::types::ids::ContainerId;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

/// How long another process may be starting the same container.
const PATIENCE: Duration = Duration::from_secs(60);
/// Size of a terminal that nobody looks at.
const UNSEEN: Size = Size { rows: 24, cols: 80 };

impl Engine {
    /// Starts a container that does not run; returns its first process. `attach` is the monitor's end of a session whose
    /// other end has asked to attach already. One that runs is left alone.
    pub fn start(&self, typed: &str, attach: Option<OwnedFd>) -> Result<Option<i32>, EngineError> {
        self.start_with(typed, attach, &Handing::default())
    }

    /// The same with what systemd gave for it.
    pub fn start_with(
        &self,
        typed: &str,
        attach: Option<OwnedFd>,
        handing: &Handing,
    ) -> Result<Option<i32>, EngineError> {
        self.sweep()?;
        let found = index::find(self.layout(), typed)?;
        let run_dir = self.layout().monitor(&found.id);
        make_dir(&run_dir)?;
        self.own(&run_dir)?;
        let _only_starter = Lock::take(&run_dir.join("start"), Mode::Exclusive, PATIENCE)?;
        // It may have been removed or started while we waited.
        let record =
            index::load(self.layout(), &found.id)?.ok_or_else(|| EngineError::NoContainer(typed.to_owned()))?;
        let view = view::look(self.layout(), record)?;
        match view.status {
            Status::Running | Status::Restarting => return Ok(None),
            Status::Paused => {
                let reason = "a paused container goes on with `unpause`";
                return Err(EngineError::State {
                    name: view.record.name,
                    status: view.status,
                    reason,
                });
            }
            Status::Stopping => {
                let reason = "it is being stopped; start it again when it has ended";
                return Err(EngineError::State {
                    name: view.record.name,
                    status: view.status,
                    reason,
                });
            }
            Status::Created | Status::Exited | Status::Dead => {}
        }
        self.kill_leftover(&view)?;
        let pid = self.launch(&view, attach, handing)?;
        handing.runs(&view.record, || {
            view::look(self.layout(), view.record.clone()).ok()?.monitor_pid
        });
        Ok(Some(pid))
    }

    /// Stops it if it runs, and starts it.
    pub fn restart(&self, typed: &str, timeout: Option<u32>) -> Result<(), EngineError> {
        let view = self.inspect(typed)?;
        let id = view.record.id.hex();
        if view.record.spec.auto_remove && view.status.is_live() {
            let reason = "it is removed when it ends (--rm), so that it cannot be started again";
            return Err(EngineError::State {
                name: view.record.name,
                status: view.status,
                reason,
            });
        }
        self.stop_view(&view, timeout)?;
        self.start(&id, None).map(drop)
    }

    fn launch(&self, view: &ContainerView, attach: Option<OwnedFd>, handing: &Handing) -> Result<i32, EngineError> {
        let mut record = view.record.clone();
        let layout = self.layout();
        let info = self.keeper_info()?;
        let mut host = HostFacts::new(&info.ids.map);
        let network = self.plan_network(&mut record, &mut host)?;
        let record = &record;
        if record.wiring.infra.is_some() {
            return self.launch_infra(record, network);
        }
        let image = self.image_by_id(&record.image)?.ok_or_else(|| EngineError::ImageGone {
            image: record.image_name.clone(),
            container: record.name.clone(),
        })?;
        let root = self.root(record, &image)?;
        let config = self.store().config(&image)?;
        let fresh = self.fresh_volumes(record)?;
        let mut bundle = spec::build(&filled(record, &fresh), Some(&config), &host, layout)?;
        let ready = handing.ready(record, &layout.monitor(&record.id), |path| self.own(path))?;
        if let Some(ready) = &ready {
            spec::hand(&mut bundle, ready.folder.as_deref(), &ready.sockets);
        }
        for dir in ["", "rootfs"] {
            let dir = layout.bundle(&record.id).join(dir);
            make_dir(&dir)?;
            self.own(&dir)?;
        }
        for (name, content) in etc::files(record, &host) {
            self.put_file(&layout.bundle(&record.id).join(name), content.as_bytes(), 0o644)?;
        }
        let bytes = serde_json::to_vec(&bundle).map_err(|error| EngineError::Bundle {
            name: record.name.clone(),
            reason: error.to_string(),
        })?;
        self.put_file(&layout.bundle(&record.id).join("config.json"), &bytes, 0o600)?;
        self.place_log(&record.id)?;
        let mut config = self.monitor_config(record, network.as_ref(), root)?;
        let pid = match ready {
            None => self
                .keeper()?
                .start_monitor(config, attach.as_ref().map(|fd| fd.as_fd()).as_slice())?,
            Some(ready) => {
                config.version = monitor::HANDED_VERSION;
                let nobody = handing::nothing().map_err(EngineError::io("prepare", &layout.monitor(&record.id)))?;
                let pid = self
                    .keeper()?
                    .start_monitor(config, &ready.with(attach.as_ref().unwrap_or(&nobody).as_fd()))?;
                ready.relay();
                pid
            }
        };
        for volume in fresh {
            volume::settle(layout, &volume, record.spec.auto_remove)?;
            self.own(&volume::record_path(layout, &volume))?;
        }
        Ok(pid)
    }

    /// Makes the folder of a log that is in memory: a reboot has cleared it, and the run root may be another than before.
    fn place_log(&self, id: &ContainerId) -> Result<(), EngineError> {
        let (name, memory) = (self.layout().log(id), self.layout().memory_log(id));
        let Ok(leads) = fs::read_link(&name) else { return Ok(()) };
        make_dir(&memory)?;
        self.own(&memory)?;
        if leads != memory {
            fs::remove_file(&name).map_err(EngineError::io("remove", &name))?;
            std::os::unix::fs::symlink(&memory, &name).map_err(EngineError::io("make the link", &name))?;
        }
        Ok(())
    }

    /// Starts what holds a pod's namespaces.
    fn launch_infra(&self, record: &ContainerRecord, network: Option<Plan>) -> Result<i32, EngineError> {
        let bundle = self.layout().bundle(&record.id);
        make_dir(&bundle)?;
        self.own(&bundle)?;
        let config = self.monitor_config(record, network.as_ref(), Root::Flat(bundle))?;
        Ok(self.keeper()?.start_monitor(config, &[])?)
    }

    /// What the monitor must know; its network's plan goes into the bundle.
    fn monitor_config(
        &self,
        record: &ContainerRecord,
        network: Option<&Plan>,
        root: Root,
    ) -> Result<MonitorConfig, EngineError> {
        let layout = self.layout();
        let plan = layout.bundle(&record.id).join(network::PLAN);
        match network {
            Some(network) => {
                disk_record::write_volatile(&plan, network)?;
                self.own(&plan)?;
            }
            None => drop(fs::remove_file(&plan)),
        }
        let spec = &record.spec;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let cleanup = vec![
            "--root".to_owned(),
            text(layout.data()),
            "--runroot".to_owned(),
            text(layout.run()),
            "container-cleanup".to_owned(),
            record.id.hex(),
        ];
        let info = self.keeper_info()?;
        Ok(MonitorConfig {
            version: version(record, network),
            id: record.id,
            name: record.name.clone(),
            bundle: layout.bundle(&record.id),
            data_dir: layout.container(&record.id),
            run_dir: layout.monitor(&record.id),
            root,
            id_map: info.ids.map.nested(),
            user: std::iter::once(&spec.user)
                .chain(&record.extras.group_names)
                .cloned()
                .collect::<Vec<_>>()
                .join("\n"),
            tree: info.cgroup.clone(),
            limits: spec.limits.clone(),
            asked: spec.asked.clone(),
            tty: spec.tty.then_some(UNSEEN),
            stdin: spec.stdin,
            log: spec.log,
            health: spec.health.clone(),
            restart: spec.restart,
            stop_signal: spec.stop_signal,
            stop_timeout_ms: u64::from(spec.stop_timeout) * 1000,
            host_network: spec.network == Network::Host,
            cleanup: if spec.auto_remove { cleanup } else { Vec::new() },
        })
    }

    /// Names of the container's volumes that were not mounted yet, and so begin with what the image has at their place.
    fn fresh_volumes(&self, record: &ContainerRecord) -> Result<Vec<String>, EngineError> {
        let mut fresh = Vec::new();
        for mount in &record.spec.mounts {
            if let MountSource::Volume(name) = &mount.source {
                let volume = volume::ensure(self.layout(), name, false, now(), &|path| self.own(path))?;
                if volume.fresh && !mount.options.iter().any(|option| option == "nocopy") {
                    fresh.push(name.clone());
                }
            }
        }
        Ok(fresh)
    }

    /// Writes a file of the bundle. It is made anew at every start: nothing is lost with a power cut.
    fn put_file(&self, path: &Path, content: &[u8], mode: u32) -> Result<(), EngineError> {
        durable::write_volatile(path, content)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(EngineError::io("set the mode of", path))?;
        self.own(path)
    }

    /// The root file system: layers and the writable folder, or a flat copy where overlay is missing.
    fn root(&self, record: &ContainerRecord, image: &ImageRecord) -> Result<Root, EngineError> {
        let folder = self.layout().container(&record.id);
        let flat = folder.join("flat");
        if !self.overlay_works() || flat.exists() {
            if !flat.exists() {
                self.copy_flat(image, &folder)?;
            }
            return Ok(Root::Flat(flat));
        }
        let upper = folder.join("upper");
        // Overlay shows the writable folder's mode as that of `/`.
        let mode = self.store().root_dir(image)?.mode;
        fs::set_permissions(&upper, fs::Permissions::from_mode(mode & 0o7777))
            .map_err(EngineError::io("set the mode of", &upper))?;
        Ok(Root::Overlay {
            lowers: self.store().lowers(image)?,
            upper,
            work: folder.join("work"),
            target: self.layout().bundle(&record.id).join("rootfs"),
        })
    }

    fn copy_flat(&self, image: &ImageRecord, folder: &Path) -> Result<(), EngineError> {
        let making = folder.join("flat.new");
        self.remove_tree(&making)?;
        make_dir(&making)?;
        self.own(&making)?;
        let layers = self.store().trees(image)?;
        let (to, all) = (open(&making)?, open(&self.layout().layers())?);
        let failed = |source| EngineError::Worker {
            path: making.clone(),
            source: Box::new(source),
        };
        worker::copy(&self.workers()?, all.as_fd(), layers, to.as_fd()).map_err(failed)?;
        durable::rename(&making, &folder.join("flat"))?;
        Ok(())
    }

    /// Whether the kernel has overlay for user namespaces (Linux 5.11), built in, loaded, or as a module that loads itself.
    pub fn overlay_works(&self) -> bool {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let release = release.trim();
        let mentions = |path: String, word: &str| fs::read_to_string(path).is_ok_and(|text| text.contains(word));
        at_least(release, 5, 11)
            && (mentions("/proc/filesystems".to_owned(), "\toverlay\n")
                || mentions(format!("/lib/modules/{release}/modules.dep"), "/overlay.ko"))
    }

    /// Says once a boot, loudly, which default limits the host cannot enforce.
    pub fn warn_not_enforced(&self, record: &ContainerRecord) {
        if record.not_enforced.is_empty() {
            return;
        }
        let mark = self.layout().run().join("warned-limits");
        let first = fs::OpenOptions::new().write(true).create_new(true).open(&mark).is_ok();
        if first {
            let text = super::error::sentences(&record.not_enforced);
            crate::warn!("{text}; containers run without, `inspect` shows it as not enforced");
        }
    }
}

/// The oldest version of monitors that do all that this start needs.
fn version(record: &ContainerRecord, network: Option<&Plan>) -> u16 {
    if !record.extras.group_names.is_empty() || record.extras.io_weight.is_some() {
        return monitor::HANDED_VERSION;
    }
    network.map_or(monitor::VERSION, |_| monitor::NETWORK_VERSION)
}

/// The record with the runtime's word for filling these volumes.
fn filled(record: &ContainerRecord, fresh: &[String]) -> ContainerRecord {
    let mut record = record.clone();
    for mount in &mut record.spec.mounts {
        mount.options.retain(|option| option != "nocopy");
        if matches!(&mount.source, MountSource::Volume(name) if fresh.contains(name)) {
            mount.options.push("copy".to_owned());
        }
    }
    record
}

fn open(path: &Path) -> Result<OwnedFd, EngineError> {
    path::open_root(path).map_err(EngineError::io("open", path))
}

pub(super) fn make_dir(path: &Path) -> Result<(), EngineError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(EngineError::io("create folder", path)(error))
        }
        _ => Ok(()),
    }
}
