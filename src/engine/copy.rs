//! What goes from place to place without a store.

use super::EngineError;
use super::pull::{Reach, policy, reaching, runtime};
use crate::config::agent::Settings;
use crate::image::copy::{self, CopyOptions, Goal, Start};
use crate::image::layout::{Layout, Transport, normal};
use crate::image::pull::Progress;
use crate::registry::Client;
use crate::types::digest::Digest;
use crate::types::reference::Reference;
use std::fs::File;

/// The name in a registry of `docker://NAME`.
fn remote(text: &str) -> Result<Reference, EngineError> {
    let name = text.strip_prefix("docker://").and_then(normal);
    name.ok_or_else(|| EngineError::Place(text.to_owned()))
}

fn client(settings: &Settings, name: &Reference, reach: &Reach) -> Result<Client, EngineError> {
    Ok(Client::new(reaching(settings, name.registry(), reach)?))
}

/// Copies an image, or with `all` a whole index, between `docker://`, `oci:`, `oci-archive:`, `docker-archive:` and `dir:`; returns the
/// digest of what is there then.
pub fn copy(
    settings: &Settings,
    (from, from_reach): (&str, &Reach),
    (to, to_reach): (&str, &Reach),
    options: &CopyOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Digest, EngineError> {
    let failed = |source: copy::CopyError| EngineError::Copy {
        from: from.to_owned(),
        to: to.to_owned(),
        source: Box::new(source),
    };
    let options = CopyOptions {
        policy: policy(settings, from_reach)?,
        ..options.clone()
    };
    let start = match Transport::parse(from) {
        Some((transport, path, tag)) => {
            let layout = Layout::open(transport, path).map_err(|e| failed(e.into()))?;
            Start::Layout(Box::new(layout), tag.map(str::to_owned))
        }
        None => {
            let name = remote(from)?;
            let client = client(settings, &name, from_reach)?;
            Start::Registry { client, name }
        }
    };
    let goal = match Transport::parse(to) {
        Some((transport, path, tag)) => {
            if options.all && transport == Transport::DockerArchive {
                return Err(failed(copy::CopyError::Refused(
                    "a docker archive holds no index: leave out --all",
                )));
            }
            let archive = matches!(transport, Transport::OciArchive | Transport::DockerArchive);
            let file = match archive {
                true => Some(File::create(path).map_err(EngineError::io("create", path))?),
                false => None,
            };
            Goal::Files {
                transport,
                path: path.to_owned(),
                file,
                tag: tag.map(str::to_owned),
            }
        }
        None => {
            let name = remote(to)?;
            let client = client(settings, &name, to_reach)?;
            Goal::Registry { client, name }
        }
    };
    runtime()?
        .block_on(copy::copy(start, goal, &options, progress))
        .map_err(failed)
}

/// Removes the manifest or index of `docker://NAME` from its registry; returns its digest.
pub fn delete(settings: &Settings, place: &str, reach: &Reach) -> Result<Digest, EngineError> {
    let name = remote(place)?;
    let client = client(settings, &name, reach)?;
    Ok(runtime()?.block_on(client.delete(&name))?)
}
