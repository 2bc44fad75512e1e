//! Where everything is: every path below the data folder and the run root.
//!
//! ```text
//! <data>/                         survives reboots
//!   format  lock                  the store's format and its lock
//!   blobs/sha256/HEX              manifests and image configurations
//!   layers/HEX/                   one unpacked layer (see `store`)
//!   images/HEX                    one record per image id
//!   refs/…                        one record per reference
//!   pins/…                        what garbage collection keeps
//!   tmp/                          in flight; swept at start
//!   quarantine/                   broken layers that were set aside
//!   containers/ID/
//!     record                      ContainerRecord
//!     exit                        ExitRecord of the last run
//!     upper/ work/                writable layer
//!     log/{0.log,1.log…}          output, newest is 0
//!   names/NAME                    the id that has the name
//!   volumes/NAME/{record,_data}   named volumes
//!   agent/                        journal, history, sets (see `deploy::files`)
//!     trust trust.2 documents     what was accepted over MQTT, its numbers twice
//!     apps/NAME.toml auto         what `app apply` was given; what followed tags mean
//!     commands.log                ids and answers of commands
//!     sets/HEX                    sets of apps by digest (see `agent::sets`)
//!     keys keys.2  device-keys device-keys.2   the fleet's keys and the device's own, each twice
//!     slots/                      versions of the agent (see `agent::slots`)
//!   secrets/{files/NAME,auth.json}   what the operator sealed for this device, open
//! <run>/                          cleared by a reboot
//!   keeper.sock  keeper.lock  agent.sock
//!   c/ID/{monitor.sock,state,…}   one folder per started container
//!   c/ID/log/                     its logs, where they are not to wear out flash; `log` in the store is a link to here
//!   c/ID/bundle/                  its OCI bundle, made at every start; `rootfs` is the mount point
//!   full                          the disk is at its reserve: no log grows
//!   stopped                       a unit's keeper stopped its containers
//!   mounts/HEX/merged             where an image is mounted
//! ```

use std::path::{Path, PathBuf};

use crate::types::ids::ContainerId;

/// The two roots of one store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Layout {
    data: PathBuf,
    run: PathBuf,
}

impl Layout {
    /// The layout below these two folders.
    pub fn new(data: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Layout {
        Layout {
            data: data.into(),
            run: run.into(),
        }
    }

    /// The system store: `/var/lib/dunlin` and `/run/dunlin`.
    pub fn system() -> Layout {
        Layout::new("/var/lib/dunlin", "/run/dunlin")
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The run root.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Manifests and configurations.
    pub fn blobs(&self) -> PathBuf {
        self.data.join("blobs/sha256")
    }

    /// Unpacked layers.
    pub fn layers(&self) -> PathBuf {
        self.data.join("layers")
    }

    /// Image records.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Reference records.
    pub fn refs(&self) -> PathBuf {
        self.data.join("refs")
    }

    /// Pins.
    pub fn pins(&self) -> PathBuf {
        self.data.join("pins")
    }

    /// In flight.
    pub fn tmp(&self) -> PathBuf {
        self.data.join("tmp")
    }

    /// Broken layers that were set aside.
    pub fn quarantine(&self) -> PathBuf {
        self.data.join("quarantine")
    }

    /// The store's lock.
    pub fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }

    /// All containers.
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// One container.
    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(id.hex())
    }

    /// Its record.
    pub fn container_record(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("record")
    }

    /// How its last run ended.
    pub fn exit(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("exit")
    }

    /// Its OCI bundle.
    pub fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.monitor(id).join("bundle")
    }

    /// Its logs.
    pub fn log(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("log")
    }

    /// Its logs in memory, where its name in the store leads then.
    pub fn memory_log(&self, id: &ContainerId) -> PathBuf {
        self.monitor(id).join("log")
    }

    /// Names of containers.
    pub fn names(&self) -> PathBuf {
        self.data.join("names")
    }

    /// Named volumes.
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// The agent's records.
    pub fn agent(&self) -> PathBuf {
        self.data.join("agent")
    }

    /// Secrets of apps, a file each.
    pub fn secret_files(&self) -> PathBuf {
        self.data.join("secrets/files")
    }

    /// Credentials of registries that came from the fleet.
    pub fn fleet_auth(&self) -> PathBuf {
        self.data.join("secrets/auth.json")
    }

    /// Made when a unit's keeper begins to stop its containers; the next agent removes it.
    pub fn stopped(&self) -> PathBuf {
        self.run.join("stopped")
    }

    /// The keeper's socket.
    pub fn keeper_socket(&self) -> PathBuf {
        self.run.join("keeper.sock")
    }

    /// The keeper's lock.
    pub fn keeper_lock(&self) -> PathBuf {
        self.run.join("keeper.lock")
    }

    /// The agent's control socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    /// A file that is there while the disk is at its reserve: no log grows.
    pub fn full(&self) -> PathBuf {
        self.run.join("full")
    }

    /// What happened; beside it with `.1` what happened before.
    pub fn events(&self) -> PathBuf {
        self.run.join("events")
    }

    /// Images that are mounted.
    pub fn mounts(&self) -> PathBuf {
        self.run.join("mounts")
    }

    /// Started containers.
    pub fn monitors(&self) -> PathBuf {
        self.run.join("c")
    }

    /// Run-time folder of one container.
    pub fn monitor(&self, id: &ContainerId) -> PathBuf {
        self.monitors().join(id.hex())
    }

    /// Its monitor's state.
    pub fn monitor_state(&self, id: &ContainerId) -> PathBuf {
        self.monitor(id).join("state")
    }
}
