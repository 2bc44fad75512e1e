//! info and version.

use super::super::args::FormatArgs;
use super::super::failure::Failure;
use super::super::listing::render_object;
use super::super::yaml;
use super::super::{human, time};
use super::print;
use crate::engine::Engine;
use crate::engine::doctor::every_limit;
use crate::engine::filter::Filter;
use crate::runtime::cgroup::Controller;
use crate::sys::footprint::meminfo;
use crate::sys::landlock;
use crate::types::container::Status;
use crate::types::idmap::Extent;
use crate::types::limits::LimitKind;
use crate::types::platform::Platform;
use serde_json::{Map, Value, json};
use std::fs;
use std::time::Duration;

/// dunlin's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A line of `/proc/meminfo`, bytes; 0 where there is none.
fn memory(key: &str) -> u64 {
    meminfo(key).unwrap_or(0)
}

pub fn version(args: &FormatArgs) -> Result<u8, Failure> {
    let platform = Platform::host();
    let os_arch = format!("{}/{}", platform.os, platform.architecture);
    let all = json!({
        "Client": {
            "Version": VERSION,
            "APIVersion": VERSION,
            "Os": platform.os,
            "OsArch": os_arch,
            "MonitorProtocol": crate::monitor::wire::VERSION,
        },
    });
    match args.format.as_deref() {
        Some(format) => print(&render_object(&all, format)?)?,
        None => print(&format!(
            "Client:       Dunlin\nVersion:      {VERSION}\nAPI Version:  {VERSION}\nOS/Arch:      {os_arch}\n"
        ))?,
    }
    Ok(0)
}

pub fn info(engine: &Engine, args: &FormatArgs) -> Result<u8, Failure> {
    let all = gather(engine)?;
    match args.format.as_deref() {
        Some(format) => print(&render_object(&all, format)?)?,
        None => print(&yaml::render(&all))?,
    }
    Ok(0)
}

fn gather(engine: &Engine) -> Result<Value, Failure> {
    let known = engine.keeper_info()?;
    let layout = engine.layout();
    let views = engine.list(&Filter::default(), time::now())?;
    let count = |statuses: &[Status]| views.iter().filter(|view| statuses.contains(&view.status)).count();
    let running = count(&[Status::Running, Status::Stopping, Status::Restarting]);
    let paused = count(&[Status::Paused]);
    let missing = crate::runtime::cgroup::check(&every_limit(), &known.cgroup);
    let limits: Map<String, Value> = LimitKind::ALL
        .into_iter()
        .map(|kind| {
            let value = match missing.iter().find(|missing| missing.limit == kind) {
                None => json!({"enforced": true}),
                Some(missing) => json!({"enforced": false, "cause": missing.cause, "fix": missing.fix}),
            };
            (kind.key().to_owned(), value)
        })
        .collect();
    let able = |controller: &Controller| {
        let mut kinds = LimitKind::ALL
            .into_iter()
            .filter(|kind| Controller::of(*kind) == *controller);
        kinds.any(|kind| missing.iter().all(|missing| missing.limit != kind))
    };
    let controllers: Vec<&str> = Controller::LIMITING
        .iter()
        .filter(|one| able(one))
        .map(|one| one.name())
        .collect();
    let uid = crate::engine::unshare::caller();
    Ok(json!({
        "host": {
            "arch": Platform::host().architecture,
            "cgroupVersion": known.cgroup.version(),
            "cgroupManager": "dunlin",

            "cgroupControllers": controllers,
            "cgroupRoots": known.cgroup.roots(),
            "cpus": std::thread::available_parallelism().map_or(1, usize::from),
            "distribution": distribution(),
            "hostname": first_line("/proc/sys/kernel/hostname"),
            "idMappings": {"uidmap": extents(&known.ids.map.uids), "gidmap": extents(&known.ids.map.gids)},
            "kernel": first_line("/proc/sys/kernel/osrelease"),
            "memFree": memory("MemFree"),
            "memTotal": memory("MemTotal"),
            "ociRuntime": {"name": "dunlin", "version": VERSION},
            "os": "linux",
            "security": {"rootless": uid != 0, "seccompEnabled": true, "apparmorEnabled": false, "selinuxEnabled": false},
            "swapFree": memory("SwapFree"),
            "swapTotal": memory("SwapTotal"),
            "uptime": uptime(),
        },
        "store": {
            "configFile": crate::config::agent::SYSTEM_FILE,
            "containerStore": {
                "number": views.len(),
                "paused": paused,
                "running": running,
                "stopped": views.len() - paused - running,
            },
            "graphDriverName": if engine.overlay_works() { "overlay" } else { "flat" },
            "graphRoot": layout.data(),
            "imageStore": {"number": engine.images()?.len()},
            "runRoot": layout.run(),
            "volumePath": layout.volumes(),
        },
        "registries": {"search": engine.registries()?.search()},
        "dunlin": {
            "board": engine.board().name,
            "kernel": {
                "overlay": engine.overlay_works(),
                "landlock": landlock::abi(),
            },
            "keeper": {"pid": known.pid, "version": known.version, "unit": known.unit},
            "limits": limits,
        },
        "version": {"Version": VERSION, "OsArch": format!("linux/{}", Platform::host().architecture)},
    }))
}

fn extents(extents: &[Extent]) -> Value {
    let all = extents
        .iter()
        .map(|extent| json!({"container_id": extent.inside, "host_id": extent.outside, "size": extent.count}));
    Value::Array(all.collect())
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

fn distribution() -> Value {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or("unknown").trim_matches('"').to_owned()
    };
    json!({"distribution": field("ID"), "version": field("VERSION_ID"), "codename": field("VERSION_CODENAME")})
}

fn uptime() -> String {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text
        .split('.')
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(0);
    human::duration(Duration::from_secs(seconds))
}
