//! inspect.

use super::super::args::InspectArgs;
use super::super::failure::{Failure, say_error};
use super::super::inspect::{self, Extra};
use super::super::listing::{json, render_object};
use super::images::repo_digests;
use super::pick::latest;
use super::print;
use crate::engine::view::ContainerView;
use crate::engine::{Engine, volume};
use crate::store::ImageRecord;
use crate::types::read;
use serde_json::{Value, json};

pub fn inspect(engine: &Engine, args: &InspectArgs) -> Result<u8, Failure> {
    if args.names.iter().any(|name| name.starts_with("docker://")) {
        return super::remote::inspect_remote(engine, args);
    }
    if args.raw || args.image_config || args.no_tags {
        return Err(Failure::new("--raw, --config and --no-tags go with docker://NAME"));
    }
    let mut found = Vec::new();
    let mut code = 0;
    if args.latest {
        found.push(container(engine, &latest(engine)?, args.size)?);
    }
    for name in &args.names {
        match one(engine, name, args) {
            Ok(value) => found.push(value),
            Err(failure) => {
                say_error(&failure.message);
                code = failure.code;
            }
        }
    }
    match args.format.as_deref() {
        None | Some("json" | "") => print(&json(&Value::Array(found)))?,
        Some(format) => {
            for value in &mut found {
                value.get_mut("Config").map(settle);
                print(&render_object(value, format)?)?;
            }
        }
    }
    Ok(code)
}

/// An image's settings say nothing of what is not set; a template may ask for it nevertheless.
fn settle(config: &mut Value) {
    let Value::Object(config) = config else { return };
    for name in ["User", "WorkingDir", "StopSignal"] {
        config.entry(name).or_insert_with(|| "".into());
    }
    for (names, none) in [
        (["Env", "Cmd", "Entrypoint"], json!([])),
        (["ExposedPorts", "Volumes", "Labels"], json!({})),
    ] {
        for name in names {
            config.entry(name).or_insert_with(|| none.clone());
        }
    }
}

fn one(engine: &Engine, name: &str, args: &InspectArgs) -> Result<Value, Failure> {
    let wanted = |kind: &str| args.kind == "all" || args.kind == kind;
    if wanted("container") {
        match engine.inspect(name) {
            Ok(view) => return container(engine, &view, args.size),
            Err(error) if error.is_no_container() && args.kind == "all" => {}
            Err(error) => return Err(error.into()),
        }
    }
    if wanted("image") {
        match engine.image(name) {
            Ok(found) => return image(engine, &found),
            Err(error) if args.kind == "image" => return Err(error.into()),
            Err(_) => {}
        }
    }
    if wanted("volume")
        && let Some(found) = volume::load(engine.layout(), name)?
    {
        return Ok(super::volume::shown(engine, &found)?);
    }
    let what = if args.kind == "all" {
        "object"
    } else {
        args.kind.as_str()
    };
    Err(Failure::new(format!("no such {what}: `{name}`")))
}

fn container(engine: &Engine, view: &ContainerView, size: bool) -> Result<Value, Failure> {
    let record = &view.record;
    // A monitor that does not answer is no reason to show nothing.
    let probes = match record.spec.health {
        Some(_) if view.status.is_live() => engine
            .monitor_status(view)
            .map(|report| report.probes)
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    let image = engine.image_by_id(&record.image)?;
    let lowers = image
        .and_then(|image| engine.store().lowers(&image).ok())
        .unwrap_or_default();
    let extra = Extra {
        probes,
        lowers,
        size: size.then(|| engine.sizes(record)),
        ports: engine.ports(record)?,
    };
    Ok(inspect::container(view, engine.layout(), &extra))
}

fn image(engine: &Engine, image: &ImageRecord) -> Result<Value, Failure> {
    let config = engine.image_config(image)?;
    let config: Value =
        read::json_any(&config).map_err(|error| Failure::new(format!("image `{}`: {error}", image.id)))?;
    let manifest: Value = engine
        .store()
        .manifest(image)
        .ok()
        .and_then(|bytes| read::json_any(&bytes).ok())
        .unwrap_or_default();
    let at = |pointer: &str| config.pointer(pointer).cloned().unwrap_or(Value::Null);
    let tags: Vec<String> = image
        .names
        .iter()
        .filter(|name| name.tag().is_some())
        .map(ToString::to_string)
        .collect();
    let lowers: Vec<String> = engine
        .store()
        .lowers(image)
        .unwrap_or_default()
        .iter()
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    Ok(json!({
        "Id": image.id.hex(),
        "Digest": image.manifest.to_string(),
        "RepoTags": tags,
        "RepoDigests": repo_digests(image),
        "Parent": "",
        "Comment": "",
        "Created": at("/created"),
        "Config": at("/config"),
        "Version": "",
        "Author": at("/author").as_str().unwrap_or_default(),
        "Architecture": at("/architecture"),
        "Variant": at("/variant").as_str().unwrap_or_default(),
        "Os": at("/os"),
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Name": "overlay", "Data": {"LowerDir": lowers.join(":")}},
        "RootFS": {"Type": "layers", "Layers": at("/rootfs/diff_ids")},
        "Labels": at("/config/Labels"),
        "Annotations": manifest.get("annotations").cloned().unwrap_or_else(|| json!({})),
        "ManifestType": manifest.get("mediaType").cloned().unwrap_or(Value::Null),
        "User": at("/config/User").as_str().unwrap_or_default(),
        "History": at("/history"),
        "NamesHistory": image.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Healthcheck": at("/config/Healthcheck"),
    }))
}
