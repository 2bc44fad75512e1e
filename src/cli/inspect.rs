//! `inspect` of a container: podman's field names, and what only dunlin knows under `Dunlin`.

use super::time;
use crate::disk::layout::Layout;
use crate::engine::view::ContainerView;
use crate::monitor::wire::ProbeRecord;
use crate::types::container::{ContainerSpec, MountSource, Network, RestartPolicy, Seccomp, Status};
use crate::types::health::Health;
use crate::types::limits::{LimitKind, Limits};
use crate::types::network::{GATEWAY, OWN, PREFIX, PortMapping};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// What is known beside the view.
#[derive(Debug, Default)]
pub struct Extra {
    /// The last probes, oldest first.
    pub probes: Vec<ProbeRecord>,
    /// Layers, topmost first.
    pub lowers: Vec<PathBuf>,
    /// Bytes of the writable layer and of the image.
    pub size: Option<(u64, u64)>,
    /// Published ports, those of whose network it shares included.
    pub ports: Vec<PortMapping>,
}

/// Everything about one container.
pub fn container(view: &ContainerView, layout: &Layout, extra: &Extra) -> Value {
    let record = &view.record;
    let spec = &record.spec;
    let folder = layout.container(&record.id);
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let lowers: Vec<String> = extra
        .lowers
        .iter()
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    let mut all = json!({
        "Id": record.id.hex(),
        "Created": time::rfc3339(Some(record.created)),
        "Path": spec.args.first(),
        "Args": spec.args.get(1..).unwrap_or_default(),
        "State": state(view, extra),
        "Image": record.image.hex(),
        "ImageDigest": record.manifest.map(|digest| digest.to_string()).unwrap_or_default(),
        "ImageName": record.image_name,
        "Rootfs": "",
        "Pod": record.wiring.pod.map(|pod| pod.hex()).unwrap_or_default(),
        "OCIConfigPath": text(layout.bundle(&record.id).join("config.json")),
        "OCIRuntime": "dunlin",
        "RestartCount": view.restarts,
        "Driver": "overlay",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "EffectiveCaps": spec.capabilities,
        "BoundingCaps": spec.capabilities,
        "ExecIDs": [],
        "GraphDriver": {
            "Name": "overlay",
            "Data": {
                "LowerDir": lowers.join(":"),
                "UpperDir": text(folder.join("upper")),
                "WorkDir": text(folder.join("work")),
            },
        },
        "Mounts": mounts(spec, layout),
        "Dependencies": [],
        "NetworkSettings": network_settings(view, &extra.ports),
        "Name": record.name,
        "Namespace": "",
        "IsInfra": record.wiring.infra.is_some(),
        "IsService": false,
        "Config": config(view),
        "HostConfig": host_config(view, layout),
        "Dunlin": own(view),
    });
    if let (Some((writable, image)), Value::Object(map)) = (extra.size, &mut all) {
        map.insert("SizeRw".to_owned(), writable.into());
        map.insert("SizeRootFs".to_owned(), (writable + image).into());
    }
    all
}

/// podman's shape of published ports: `80/tcp` to a list of where they are.
pub fn bindings(ports: &[PortMapping]) -> Value {
    let mut all = Map::new();
    for port in ports {
        let address = port.address.map(|ip| ip.to_string()).unwrap_or_default();
        for (host, inside) in port.pairs() {
            let key = format!("{inside}/{}", port.protocol.as_str());
            let one = json!({"HostIp": address, "HostPort": host.to_string()});
            match all.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
                Value::Array(list) => list.push(one),
                other => *other = one,
            }
        }
    }
    Value::Object(all)
}

fn network_settings(view: &ContainerView, ports: &[PortMapping]) -> Value {
    let running = view.pid.filter(|_| view.status.is_live());
    let private = running.is_some() && view.record.spec.network == Network::Private;
    json!({
        "Ports": bindings(ports),
        "Networks": {},
        "SandboxKey": running.map(|pid| format!("/proc/{pid}/ns/net")).unwrap_or_default(),
        "IPAddress": if private { OWN.to_string() } else { String::new() },
        "IPPrefixLen": if private { PREFIX } else { 0 },
        "Gateway": if private { GATEWAY.to_string() } else { String::new() },
    })
}

fn state(view: &ContainerView, extra: &Extra) -> Value {
    let exit = view.exit.as_ref();
    let log: Vec<Value> = extra
        .probes
        .iter()
        .map(|probe| {
            json!({
                "Start": time::rfc3339(Some(probe.began)),
                "End": time::rfc3339(Some(probe.ended)),
                "ExitCode": probe.code,
                "Output": probe.output,
                "TimedOut": probe.timed_out,
            })
        })
        .collect();
    let health = if view.record.spec.health.is_some() {
        view.health.as_str()
    } else {
        ""
    };
    json!({
        "OciVersion": "1.2.0",
        "Status": view.status.as_str(),
        "Running": view.status == Status::Running,
        "Paused": view.status == Status::Paused,
        "Restarting": view.status == Status::Restarting,
        "OOMKilled": exit.is_some_and(|exit| exit.oom),
        "Dead": view.status == Status::Dead,
        "Pid": view.pid.unwrap_or(0),
        "ConmonPid": view.monitor_pid.unwrap_or(0),
        "ExitCode": view.exit_code(),
        "Error": exit.map(|exit| exit.error.as_str()).unwrap_or_default(),
        "StartedAt": time::rfc3339(view.started),
        "FinishedAt": time::rfc3339(view.finished),
        "Health": {"Status": health, "FailingStreak": view.failing_streak, "Log": log},
        "CheckpointedAt": time::rfc3339(None),
        "RestoredAt": time::rfc3339(None),
        "StoppedByUser": view.stop_asked,
    })
}

fn mounts(spec: &ContainerSpec, layout: &Layout) -> Vec<Value> {
    spec.mounts
        .iter()
        .filter_map(|mount| {
            let (kind, name, source) = match &mount.source {
                MountSource::Bind(path) => ("bind", "", path.clone()),
                MountSource::Volume(name) => (
                    "volume",
                    name.as_str(),
                    layout.volumes().join(name).join("_data").to_string_lossy().into_owned(),
                ),
                MountSource::Tmpfs => return None,
            };
            Some(json!({
                "Type": kind,
                "Name": name,
                "Source": source,
                "Destination": mount.target,
                "Driver": if kind == "volume" { "local" } else { "" },
                "Mode": "",
                "Options": mount.options,
                "RW": !mount.read_only,
                "Propagation": "rprivate",
            }))
        })
        .collect()
}

fn config(view: &ContainerView) -> Value {
    let record = &view.record;
    let spec = &record.spec;
    json!({
        "Hostname": if spec.hostname.is_empty() { record.id.short() } else { spec.hostname.clone() },
        "Domainname": "",
        "User": spec.user,
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "Tty": spec.tty,
        "OpenStdin": spec.stdin,
        "StdinOnce": false,
        "Env": spec.env,
        "Cmd": spec.args,
        "Image": record.image_name,
        "Volumes": Value::Null,
        "WorkingDir": spec.workdir,
        "Entrypoint": "",
        "OnBuild": Value::Null,
        "Labels": spec.labels,
        "Annotations": spec.annotations,
        "StopSignal": spec.stop_signal,
        "Healthcheck": spec.health.as_ref().map(healthcheck),
        "StopTimeout": spec.stop_timeout,
        "Umask": format!("{:04o}", view.record.extras.umask.unwrap_or(0o022)),
    })
}

/// Docker's shape of a health check: times in nanoseconds.
fn healthcheck(health: &Health) -> Value {
    let test: Vec<String> = match (&health.exec, &health.http, &health.tcp) {
        (Some(args), _, _) if args.len() == 3 && args[0] == "/bin/sh" && args[1] == "-c" => {
            vec!["CMD-SHELL".to_owned(), args[2].clone()]
        }
        (Some(args), _, _) => std::iter::once("CMD".to_owned()).chain(args.iter().cloned()).collect(),
        (_, Some(http), _) => vec!["HTTP".to_owned(), format!("{}{}", http.port, http.path)],
        (_, _, Some(tcp)) => vec!["TCP".to_owned(), tcp.port.to_string()],
        _ => Vec::new(),
    };
    json!({
        "Test": test,
        "Interval": health.interval.ms() * 1_000_000,
        "Timeout": health.timeout.ms() * 1_000_000,
        "StartPeriod": health.start_period.ms() * 1_000_000,
        "Retries": health.failures,
    })
}

fn host_config(view: &ContainerView, layout: &Layout) -> Value {
    let spec = &view.record.spec;
    let limits = &spec.limits;
    let memory = limits.memory.map_or(0, |memory| memory.0);
    let binds: Vec<String> = spec
        .mounts
        .iter()
        .filter_map(|mount| {
            let source = match &mount.source {
                MountSource::Bind(source) | MountSource::Volume(source) => source,
                MountSource::Tmpfs => return None,
            };
            Some(format!(
                "{source}:{}:{}",
                mount.target,
                if mount.read_only { "ro" } else { "rw" }
            ))
        })
        .collect();
    let tmpfs: Map<String, Value> = spec
        .mounts
        .iter()
        .filter(|mount| mount.source == MountSource::Tmpfs)
        .map(|mount| (mount.target.clone(), Value::from(mount.options.join(","))))
        .collect();
    let (policy, retries) = match spec.restart {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::OnFailure(times) => ("on-failure", times),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
    };
    let mut security: Vec<&str> = Vec::new();
    if spec.no_new_privs {
        security.push("no-new-privileges");
    }
    match spec.seccomp {
        Seccomp::Default => {}
        Seccomp::Unconfined => security.push("seccomp=unconfined"),
        Seccomp::Profile(_) => security.push("seccomp=profile"),
    }
    let rates = |pick: &dyn Fn(&crate::types::limits::IoLimit) -> Option<u64>| -> Vec<Value> {
        limits
            .io
            .iter()
            .filter_map(|(device, limit)| Some(json!({"Path": device, "Rate": pick(limit)?})))
            .collect()
    };
    let mut all = json!({
        "Binds": binds,
        "CgroupMode": "private",
        "LogConfig": {
            "Type": "k8s-file",
            "Path": layout.log(&view.record.id).join("0.log").to_string_lossy(),
            "Size": format!("{}B", spec.log.file_bytes),
            "MaxFile": spec.log.files,
        },
        "NetworkMode": view.record.network_mode(),
        "PortBindings": bindings(&view.record.wiring.ports),
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": retries},
        "AutoRemove": spec.auto_remove,
        "OomScoreAdj": view.record.extras.oom_score_adj.unwrap_or(0),
        "CapAdd": [],
        "CapDrop": [],
        "ExtraHosts": spec.extra_hosts.iter().map(|(address, name)| format!("{name}:{address}")).collect::<Vec<_>>(),
        "IpcMode": "private",
        "PidMode": "private",
        "UTSMode": "private",
        "UsernsMode": "",
        "Privileged": false,
        "ReadonlyRootfs": spec.read_only,
        "SecurityOpt": security,
        "Tmpfs": tmpfs,
        "Runtime": "dunlin",
        "CpuWeight": limits.cpu_weight.unwrap_or(0),
        "CpuPeriod": limits.cpu.map_or(0, |_| 100_000),
        "CpuQuota": limits.cpu.map_or(0, |cpu| u64::from(cpu.0) * 100),
        "NanoCpus": limits.cpu.map_or(0, |cpu| u64::from(cpu.0) * 1_000_000),
        "CpusetCpus": limits.cpuset.as_deref().unwrap_or_default(),
        "Memory": memory,
        "MemoryReservation": limits.memory_high.map_or(0, |high| high.0),
        "MemorySwap": limits.swap.map_or(0, |swap| memory.saturating_add(swap.0)),
        "PidsLimit": limits.pids.unwrap_or(0),
        "BlkioDeviceReadBps": rates(&|limit| limit.read.map(|bytes| bytes.0)),
        "BlkioDeviceWriteBps": rates(&|limit| limit.write.map(|bytes| bytes.0)),
        "BlkioDeviceReadIOps": rates(&|limit| limit.read_iops.map(u64::from)),
        "BlkioDeviceWriteIOps": rates(&|limit| limit.write_iops.map(u64::from)),
        "Devices": spec.devices.iter().map(|device| json!({
            "PathOnHost": device.host,
            "PathInContainer": device.container,
            "CgroupPermissions": device.access,
        })).collect::<Vec<_>>(),
        "Sysctls": spec.sysctls,
        "Ulimits": spec.rlimits.iter().map(|(name, soft, hard)| json!({"Name": name, "Soft": soft, "Hard": hard})).collect::<Vec<_>>(),
    });
    let extras = &view.record.extras;
    let groups = extras.groups.iter().map(ToString::to_string);
    all["BlkioWeight"] = extras.io_weight.unwrap_or(0).into();
    let wiring = &view.record.wiring;
    for (key, list) in [
        ("GroupAdd", groups.chain(extras.group_names.iter().cloned()).collect()),
        ("Dns", wiring.dns.iter().map(ToString::to_string).collect()),
        ("DnsSearch", wiring.dns_search.clone()),
        ("DnsOptions", wiring.dns_options.clone()),
    ] {
        all[key] = Value::from(list);
    }
    all
}

/// What only dunlin knows: each limit with where it comes from and whether it is enforced; access to devices.
fn own(view: &ContainerView) -> Value {
    let record = &view.record;
    let spec = &record.spec;
    let limits: Map<String, Value> = spec
        .limits
        .kinds()
        .into_iter()
        .map(|kind| {
            let missing = record.not_enforced.iter().find(|missing| missing.limit == kind);
            let value = json!({
                "Value": value(&spec.limits, kind),
                "Origin": if spec.asked.contains(&kind) { "asked" } else { "default" },
                "Enforced": missing.is_none(),
                "Cause": missing.map(|missing| missing.cause.as_str()),
                "Fix": missing.map(|missing| missing.fix.as_str()),
            });
            (kind.key().to_owned(), value)
        })
        .collect();
    let mut all = json!({"Limits": limits, "NoNewPrivileges": spec.no_new_privs});
    if !spec.devices.is_empty() {
        all["DeviceAccess"] = Value::from(
            "devices are bound nodes: the host's file modes decide; device programs are refused to rootless",
        );
    }
    all
}

fn value(limits: &Limits, kind: LimitKind) -> Value {
    match serde_json::to_value(limits) {
        Ok(Value::Object(mut map)) => map.remove(kind.key()).unwrap_or(Value::Null),
        _ => Value::Null,
    }
}
