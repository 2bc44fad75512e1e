//! inspect docker://… and list-tags: skopeo's questions to a registry, and its answers' form.

use super::super::args::{InspectArgs, ListTagsArgs};
use super::super::failure::{Failure, say};
use super::super::listing::render_object;
use super::print;
use super::pull::reach;
use crate::engine::remote::Remote;
use crate::engine::{Engine, EngineError};
use crate::registry::{Document, Image, RegistryError, Resolved};
use crate::types::platform::Platform;
use crate::types::read;
use crate::types::reference::Reference;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::PrettyFormatter;
use std::collections::BTreeMap;

/// skopeo's `inspect`, with its names in its order.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    name: String,
    digest: String,
    repo_tags: Vec<String>,
    created: Value,
    docker_version: String,
    labels: Value,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    layers: Vec<String>,
    layers_data: Vec<ShownLayer>,
    env: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownLayer {
    #[serde(rename = "MIMEType")]
    media_type: String,
    digest: String,
    size: u64,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownTags {
    repository: String,
    tags: Vec<String>,
}

/// `inspect docker://…`; one answer for each name.
pub fn inspect_remote(engine: &Engine, args: &InspectArgs) -> Result<u8, Failure> {
    let reach = reach(None, &args.registry);
    for typed in &args.names {
        let Some(text) = typed.strip_prefix("docker://") else {
            return Err(Failure::new(format!(
                "`{typed}` is no name in a registry, and others are: ask for them apart"
            )));
        };
        let reference = engine.resolve(text)?.sure(text).map_err(EngineError::from)?;
        let remote = engine.remote(&reference, &reach)?;
        let top = remote.manifest()?;
        if args.raw && !args.image_config {
            print_bytes(&top.bytes)?;
            continue;
        }
        let digest = top.digest;
        let image = remote.image(top, &Platform::host())?;
        let config = remote.config(&image)?;
        if args.raw {
            print_bytes(&config)?;
            continue;
        }
        let config: Value = read::json_any(&config)
            .map_err(|error| Failure::new(format!("`{reference}`: its configuration is not valid: {error}")))?;
        let text = if args.image_config {
            render(&config, args.format.as_deref())?
        } else {
            let tags = match args.no_tags {
                true => Vec::new(),
                false => tags(&remote)?,
            };
            let shown = shown(&reference, digest.to_string(), tags, &image, &config);
            render(&shown, args.format.as_deref())?
        };
        print(&text)?;
    }
    Ok(0)
}

/// `list-tags`.
pub fn list_tags(engine: &Engine, args: &ListTagsArgs) -> Result<u8, Failure> {
    let typed = args.name.strip_prefix("docker://").unwrap_or(&args.name);
    let last = typed.rsplit('/').next().unwrap_or(typed);
    if last.contains([':', '@']) {
        return Err(Failure::new(format!(
            "`{typed}`: No tag or digest allowed in reference: all tags of the repository are listed"
        )));
    }
    let reference = engine.resolve(typed)?.sure(typed).map_err(EngineError::from)?;
    let shown = ShownTags {
        repository: reference.name(),
        tags: engine.remote(&reference, &reach(None, &args.registry))?.tags()?,
    };
    print(&render(&shown, None)?)?;
    Ok(0)
}

/// Some registries show images and keep their list of tags for themselves.
fn tags(remote: &Remote) -> Result<Vec<String>, Failure> {
    match remote.tags() {
        Err(EngineError::Registry(error))
            if matches!(*error, RegistryError::Denied { .. } | RegistryError::NotFound { .. }) =>
        {
            say(&format!("warning: the tags cannot be listed: {error}"));
            Ok(Vec::new())
        }
        other => Ok(other?),
    }
}

fn shown(reference: &Reference, digest: String, tags: Vec<String>, image: &Image, config: &Value) -> Shown {
    let at = |pointer: &str| config.pointer(pointer).cloned().unwrap_or(Value::Null);
    let text = |pointer: &str| at(pointer).as_str().unwrap_or_default().to_owned();
    Shown {
        name: reference.name(),
        digest,
        repo_tags: tags,
        created: at("/created"),
        docker_version: text("/docker_version"),
        labels: at("/config/Labels"),
        architecture: text("/architecture"),
        variant: text("/variant"),
        os: text("/os"),
        layers: image
            .layers
            .iter()
            .map(|layer| layer.descriptor.digest.to_string())
            .collect(),
        layers_data: layers_data(&image.manifest, image),
        env: at("/config/Env"),
    }
}

fn layers_data(manifest: &Resolved, image: &Image) -> Vec<ShownLayer> {
    #[derive(serde::Deserialize)]
    struct Annotated {
        annotations: Option<BTreeMap<String, String>>,
    }
    #[derive(serde::Deserialize)]
    struct Layers {
        layers: Vec<Annotated>,
    }
    let annotated: Option<Layers> = match manifest.document {
        Document::Manifest(_) => read::json(&manifest.bytes).ok(),
        Document::Index(_) => None,
    };
    let mut annotated = annotated.map(|layers| layers.layers).unwrap_or_default().into_iter();
    let show = |layer: &crate::registry::Layer| ShownLayer {
        media_type: layer.descriptor.media_type.clone(),
        digest: layer.descriptor.digest.to_string(),
        size: layer.descriptor.size,
        annotations: annotated.next().and_then(|layer| layer.annotations),
    };
    image.layers.iter().map(show).collect()
}

/// With skopeo's four spaces, or by a template.
fn render(value: &impl Serialize, format: Option<&str>) -> Result<String, Failure> {
    let failed = |error: serde_json::Error| Failure::new(error.to_string());
    if let Some(format) = format.filter(|format| !matches!(format.trim(), "" | "json")) {
        return Ok(render_object(&serde_json::to_value(value).map_err(failed)?, format)?);
    }
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    value.serialize(&mut serializer).map_err(failed)?;
    text.push(b'\n');
    String::from_utf8(text).map_err(|error| Failure::new(error.to_string()))
}

/// Exactly these bytes: their digest is what people compare.
fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}
