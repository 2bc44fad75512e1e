//! Making a container: wishes, image and board defaults become a record; the record's folder appears with one rename.

use super::index::{self, IndexLock};
use super::options::{CreateOptions, ImageDefaults, is_systemd, merge};
use super::remove::NEW;
use super::{Engine, EngineError, names, now, volume};
use crate::disk::{durable, record};
use crate::runtime::{cgroup, first};
use crate::store::ImageRecord;
use crate::types::container::{ContainerRecord, Extras, Mount, MountSource};
use crate::types::ids::ContainerId;
use crate::types::limits::{LimitKind, Limits, NotEnforced};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Tries to make up a name that is free.
const NAME_ATTEMPTS: u32 = 64;

impl Engine {
    /// Makes a container. Its image must be in the store.
    pub fn create(&self, options: &CreateOptions) -> Result<ContainerRecord, EngineError> {
        self.sweep()?;
        let image = self.image(&options.image)?;
        let defaults = self.image_defaults(&image)?;
        let id = ContainerId::from_bytes(random()?);
        let mut spec = merge(options, &defaults, self.default_limits())?;
        if options.log.is_none() {
            spec.log = self.log_limits();
        }
        let (network, wiring) = self.wire(options, &defaults)?;
        spec.network = network;
        self.check_maximum(&options.limits)?;
        if self.defaults_are_asked() {
            spec.asked = spec.limits.kinds();
        }
        let not_enforced = self.check_limits(&spec.limits, &spec.asked)?;
        if options.init {
            spec.mounts.push(own_program()?);
        }
        for mount in &mut spec.mounts {
            match &mut mount.source {
                MountSource::Bind(path) => check_bind(Path::new(path))?,
                MountSource::Volume(name) => {
                    let unnamed = name.is_empty();
                    if unnamed {
                        *name = crate::types::digest::hex(&random::<32>()?);
                    }
                    volume::ensure(self.layout(), name, unnamed, now(), &|path| self.own(path))?;
                }
                MountSource::Tmpfs => {}
            }
        }
        let systemd = is_systemd(options, &spec.args);
        let mut made = ContainerRecord {
            id,
            name: String::new(),
            created: now(),
            image: image.id,
            image_name: self.image_name(&image, &options.image),
            manifest: Some(image.manifest),
            spec,
            not_enforced,
            wiring,
            extras: Extras {
                systemd,
                ..options.extras.clone()
            },
        };
        self.put(&mut made, options.name.as_deref())?;
        self.tell_of(&made, "create");
        Ok(made)
    }

    /// Gives the record its name and makes it exist.
    pub(super) fn put(&self, made: &mut ContainerRecord, name: Option<&str>) -> Result<(), EngineError> {
        let layout = self.layout();
        let lock = IndexLock::take(layout)?;
        // What nobody used may have been pruned since it was looked up.
        if made.wiring.infra.is_none() && self.store().image(&made.image)?.is_none() {
            let (image, container) = (made.image_name.clone(), made.id.short());
            return Err(EngineError::ImageGone { image, container });
        }
        for mount in &made.spec.mounts {
            if let MountSource::Volume(name) = &mount.source
                && volume::load(layout, name)?.is_none()
            {
                volume::ensure(layout, name, false, now(), &|path| self.own(path))?;
            }
        }
        made.name = match name {
            Some(name) => {
                index::check_free(layout, &lock, name)?;
                name.to_owned()
            }
            None => self.free_name(&lock)?,
        };
        let making = layout.containers().join(format!(".{}{NEW}", made.id.hex()));
        let result = self.fill(&making, made).and_then(|()| {
            let folder = layout.container(&made.id);
            // A container with `--rm` does not outlive a power cut: nothing of it needs to be on the device.
            if made.spec.auto_remove {
                fs::rename(&making, &folder).map_err(EngineError::io("rename", &making))
            } else {
                Ok(durable::rename(&making, &folder)?)
            }
        });
        if let Err(error) = result {
            // The first error is the one to tell.
            let _ = fs::remove_dir_all(&making);
            return Err(error);
        }
        Ok(index::link_name(layout, &lock, &made.name, &made.id)?)
    }

    fn fill(&self, folder: &Path, made: &ContainerRecord) -> Result<(), EngineError> {
        for dir in ["", "upper", "work"] {
            let dir = folder.join(dir);
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&dir)
                .map_err(EngineError::io("create folder", &dir))?;
            self.own(&dir)?;
        }
        // The version before knows no log in memory.
        if self.logs_in_memory() && !record::writes_older() {
            let (name, memory) = (folder.join("log"), self.layout().memory_log(&made.id));
            std::os::unix::fs::symlink(memory, &name).map_err(EngineError::io("make the link", &name))?;
        }
        // The upper folder is the container's `/`.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.join("upper"), open).map_err(EngineError::io("open up", folder))?;
        let path = folder.join("record");
        if made.spec.auto_remove {
            record::write_volatile(&path, made)?;
        } else {
            record::write(&path, made)?;
        }
        self.own(&path)
    }

    fn free_name(&self, lock: &IndexLock) -> Result<String, EngineError> {
        let mut last = None;
        for attempt in 0..NAME_ATTEMPTS {
            let name = names::made_up(random()?, attempt);
            match index::check_free(self.layout(), lock, &name) {
                Ok(()) => return Ok(name),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| EngineError::BadName(String::new())))
    }

    pub(super) fn check_maximum(&self, asked: &Limits) -> Result<(), EngineError> {
        let maximum = self.maximum_limits();
        let above = |limit: LimitKind, asked: Option<u64>, maximum: Option<u64>, show: &dyn Fn(u64) -> String| match (
            asked, maximum,
        ) {
            (Some(asked), Some(maximum)) if asked > maximum => Err(EngineError::AboveMaximum {
                limit: limit.key(),
                asked: show(asked),
                maximum: show(maximum),
            }),
            _ => Ok(()),
        };
        let bytes = |value: u64| crate::types::text::format_size(value);
        let plain = |value: u64| value.to_string();
        let cpus = |value: u64| format!("{}", value as f64 / 1000.0);
        above(
            LimitKind::Memory,
            asked.memory.map(|b| b.0),
            maximum.memory.map(|b| b.0),
            &bytes,
        )?;
        above(
            LimitKind::MemoryHigh,
            asked.memory_high.map(|b| b.0),
            maximum.memory_high.map(|b| b.0),
            &bytes,
        )?;
        above(
            LimitKind::Swap,
            asked.swap.map(|b| b.0),
            maximum.swap.map(|b| b.0),
            &bytes,
        )?;
        above(
            LimitKind::Cpu,
            asked.cpu.map(|c| c.0.into()),
            maximum.cpu.map(|c| c.0.into()),
            &cpus,
        )?;
        above(
            LimitKind::CpuWeight,
            asked.cpu_weight.map(Into::into),
            maximum.cpu_weight.map(Into::into),
            &plain,
        )?;
        above(
            LimitKind::Pids,
            asked.pids.map(Into::into),
            maximum.pids.map(Into::into),
            &plain,
        )
    }

    /// P-limits: what was asked for and cannot be enforced is an error; what nobody asked for is reported.
    pub(super) fn check_limits(&self, limits: &Limits, asked: &[LimitKind]) -> Result<Vec<NotEnforced>, EngineError> {
        let missing = cgroup::check(limits, &self.keeper_info()?.cgroup);
        let (refused, defaults): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|missing| asked.contains(&missing.limit));
        if refused.is_empty() {
            Ok(defaults)
        } else {
            Err(EngineError::NotEnforced(refused))
        }
    }

    fn image_defaults(&self, image: &ImageRecord) -> Result<ImageDefaults, EngineError> {
        let config = self.image_config(image)?;
        ImageDefaults::parse(&config).map_err(|error| EngineError::ImageConfig {
            image: image.id,
            reason: error.to_string(),
        })
    }
}

/// dunlin itself, as the first process of a container.
fn own_program() -> Result<Mount, EngineError> {
    let program = std::env::current_exe().map_err(EngineError::io("find", Path::new("/proc/self/exe")))?;
    Ok(Mount {
        source: MountSource::Bind(program.to_string_lossy().into_owned()),
        target: first::PATH.to_owned(),
        read_only: true,
        options: Vec::new(),
    })
}

fn check_bind(path: &Path) -> Result<(), EngineError> {
    match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(source) => {
            let (uid, _) = crate::sys::creds::effective_ids();
            Err(EngineError::BindSource {
                path: path.to_owned(),
                source,
                uid,
            })
        }
    }
}

/// Random bytes from the kernel.
pub(super) fn random<const N: usize>() -> Result<[u8; N], EngineError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| EngineError::Io {
        action: "read random bytes from",
        path: "getrandom".into(),
        source: std::io::ErrorKind::Other.into(),
    })?;
    Ok(bytes)
}
