//! Rows of `ps`.

use super::listing::Listing;
use super::{human, time};
use crate::engine::view::ContainerView;
use crate::types::container::{MountSource, Status};
use crate::types::health::HealthStatus;
use crate::types::network::PortMapping;
use crate::types::time::Unix;
use serde_json::{Value, json};

/// Characters of a command in the table.
const COMMAND_CHARS: usize = 20;
/// Go's zero time in Unix seconds, which podman writes where there is none.
const ZERO_TIME: i64 = -62_135_596_800;

/// How rows are made.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Full ids and commands.
    pub no_trunc: bool,
    /// With the size of the writable layer.
    pub size: bool,
    /// The moment that ages count from.
    pub now: Unix,
}

/// A container and what is known beside it: where it was asked for, the bytes of its writable layer and of its image.
pub struct Row {
    /// The container.
    pub view: ContainerView,
    /// The sizes.
    pub size: Option<(u64, u64)>,
    /// Its published ports, or those of whose network it shares.
    pub ports: Vec<PortMapping>,
    /// Name of its pod.
    pub pod: String,
}

/// The list of containers.
pub fn listing(containers: &[Row], shape: Shape) -> Listing {
    let mut columns = vec![
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("PORTS", "Ports"),
        ("NAMES", "Names"),
    ];
    if shape.size {
        columns.push(("SIZE", "Size"));
    }
    Listing {
        columns,
        headers: &[
            ("Created", "CREATED"),
            ("CreatedHuman", "CREATED"),
            ("RunningFor", "CREATED"),
            ("ImageID", "IMAGE ID"),
        ],
        rows: containers.iter().map(|one| row(one, shape)).collect(),
        json: containers.iter().map(|one| full(one, shape)).collect(),
    }
}

/// podman's words for a state: `Up 2 minutes (healthy)`, `Exited (0) 3 seconds ago`.
pub fn status(view: &ContainerView, now: Unix) -> String {
    let mut text = match view.status {
        Status::Created => "Created".to_owned(),
        Status::Running => {
            let up = view
                .started
                .map(|started| time::since(started, now))
                .unwrap_or_default();
            format!("Up {}", human::duration(up))
        }
        Status::Paused => "Paused".to_owned(),
        Status::Stopping => "Stopping".to_owned(),
        Status::Restarting => format!("Restarting ({})", view.exit_code()),
        Status::Dead => match view.started {
            Some(started) => format!("Dead (started {})", time::ago(started, now)),
            None => "Dead".to_owned(),
        },
        Status::Exited => {
            let finished = view.finished.unwrap_or(now);
            format!("Exited ({}) {}", view.exit_code(), time::ago(finished, now))
        }
    };
    if view.status == Status::Running && view.health != HealthStatus::None {
        text.push_str(&format!(" ({})", view.health.as_str()));
    }
    text
}

fn command(view: &ContainerView, no_trunc: bool) -> String {
    let text = view.record.spec.args.join(" ");
    if no_trunc || text.chars().count() <= COMMAND_CHARS {
        return text;
    }
    text.chars().take(COMMAND_CHARS - 3).chain("...".chars()).collect()
}

/// podman's text of published ports.
pub fn ports(ports: &[PortMapping]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// podman's list of published ports; null where there are none.
pub fn ports_json(ports: &[PortMapping]) -> Value {
    let one = |port: &PortMapping| {
        json!({
            "host_ip": port.address.map(|ip| ip.to_string()).unwrap_or_default(),
            "container_port": port.container,
            "host_port": port.host,
            "range": port.count,
            "protocol": port.protocol.as_str(),
        })
    };
    match ports {
        [] => Value::Null,
        ports => ports.iter().map(one).collect(),
    }
}

fn mounts(view: &ContainerView) -> Vec<String> {
    let source = |source: &MountSource| match source {
        MountSource::Bind(path) => path.clone(),
        MountSource::Volume(name) => name.clone(),
        MountSource::Tmpfs => "tmpfs".to_owned(),
    };
    view.record
        .spec
        .mounts
        .iter()
        .map(|mount| source(&mount.source))
        .collect()
}

fn size((writable, image): (u64, u64)) -> String {
    format!(
        "{} (virtual {})",
        human::size(writable).replace(' ', ""),
        human::size(writable + image).replace(' ', "")
    )
}

/// What the table's rows and the JSON document have in common, with what is different.
fn shown(one: &Row, shape: Shape, different: Value) -> Value {
    let (view, record) = (&one.view, &one.view.record);
    let mut all = json!({
        "AutoRemove": record.spec.auto_remove,
        "ExitCode": view.exit_code(),
        "Exited": matches!(view.status, Status::Exited | Status::Dead),
        "ExitedAt": view.finished.map_or(ZERO_TIME, |at| at.seconds() as i64),
        "Health": view.health.as_str(),
        "Image": record.image_name,
        "IsInfra": record.wiring.infra.is_some(),
        "Pid": view.pid.unwrap_or(0),
        "Pod": record.wiring.pod.map(|pod| pod.hex()).unwrap_or_default(),
        "PodName": one.pod,
        "Restarts": view.restarts,
        "StartedAt": view.started.map_or(ZERO_TIME, |at| at.seconds() as i64),
        "State": view.status.as_str(),
        "Status": status(view, shape.now),
    });
    if let (Value::Object(all), Value::Object(mut different)) = (&mut all, different) {
        all.append(&mut different);
    }
    all
}

fn row(one: &Row, shape: Shape) -> Value {
    let (view, record) = (&one.view, &one.view.record);
    let pair = |(key, value): (&String, &String)| format!("{key}={value}");
    let age = time::ago(record.created, shape.now);
    let different = json!({
        "ID": if shape.no_trunc { record.id.hex() } else { record.id.short() },
        "ImageID": if shape.no_trunc { record.image.hex() } else { record.image.short() },
        "Command": command(view, shape.no_trunc),
        "Created": age,
        "CreatedHuman": age,
        "RunningFor": age,
        "CreatedAt": time::long(record.created),
        "Ports": ports(&one.ports),
        "Names": record.name,
        "Labels": record.spec.labels.iter().map(pair).collect::<Vec<_>>().join(","),
        "Mounts": mounts(view).join(","),
        "Networks": record.network_mode(),
        "Size": one.size.map(size).unwrap_or_default(),
    });
    shown(one, shape, different)
}

fn full(one: &Row, shape: Shape) -> Value {
    let record = &one.view.record;
    let different = json!({
        "Command": record.spec.args,
        "Created": record.created.seconds(),
        "CreatedAt": time::ago(record.created, shape.now),
        "Id": record.id.hex(),
        "ImageID": record.image.hex(),
        "Labels": record.spec.labels,
        "Mounts": record.spec.mounts.iter().map(|mount| mount.target.as_str()).collect::<Vec<_>>(),
        "Names": [record.name.as_str()],
        "Networks": [record.network_mode()],
        "Ports": ports_json(&one.ports),
        "Size": one.size.map(|(writable, image)| json!({"rwSize": writable, "rootFsSize": writable + image})),
    });
    shown(one, shape, different)
}
