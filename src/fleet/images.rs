//! What a document needs of registries: tags become digests, so that when it is signed it is decided once what runs, for every
//! platform; a set of apps becomes an artifact that it names.

use tokio::runtime::{Builder, Runtime};

use super::FleetError;
use crate::config::agent::Registry;
use crate::config::folders::Folders;
use crate::registry::{Client, Settings, names};
use crate::types::app::{self, App};
use crate::types::bounds::SET_BYTES;
use crate::types::digest::Digest;
use crate::types::document::SET_TYPE;
use crate::types::reference::Reference;
use crate::uplink;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Gives every app's image its digest: of the index where there is one, so that each device picks its platform from it. `uid`:
/// whose registry settings and credentials count.
pub fn pin(apps: &mut [App], registry: &Registry, uid: u32) -> Result<(), FleetError> {
    let pinned = |app: &App| {
        app.image
            .parse::<Reference>()
            .is_ok_and(|image| image.digest().is_some())
    };
    if apps.iter().all(pinned) {
        return Ok(());
    }
    let settings = Settings::usual(registry, &Folders::of_environment(uid), None)?;
    let registries = settings.registries.clone();
    let client = Client::new(settings);
    let runtime = runtime()?;
    for app in apps.iter_mut().filter(|app| !pinned(app)) {
        let reference = names::meaning(&registries, &app.image).and_then(|meaning| meaning.sure(&app.image));
        let reference =
            reference.map_err(|error| FleetError::Invalid(format!("app `{}`: `image`: {error}", app.name)))?;
        // The whole manifest is fetched: what is signed was seen and has this digest.
        let resolved = runtime.block_on(client.resolve(&reference))?;
        app.image = reference.pinned(resolved.digest).to_string();
    }
    Ok(())
}

fn runtime() -> Result<Runtime, FleetError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| FleetError::System {
        what: "make a runtime for the registry",
        source,
    })
}

/// Puts a set of apps into a repository, as an artifact with one blob; gives its reference by digest. Its tag keeps it there.
pub fn publish(
    apps: &[App],
    repository: &str,
    pinned: bool,
    registry: &Registry,
    uid: u32,
) -> Result<String, FleetError> {
    let mut problems: Vec<String> = app::set_problems(apps, "apps", pinned)
        .iter()
        .map(ToString::to_string)
        .collect();
    let set = uplink::json(&apps);
    if apps.is_empty() || set.len() > SET_BYTES {
        problems.push(format!("a set in a registry has apps, and at most {SET_BYTES} bytes"));
    }
    if !problems.is_empty() {
        return Err(FleetError::Invalid(problems.join("; ")));
    }
    let bad = |text: String| FleetError::Invalid(format!("--apps-ref `{repository}`: {text}"));
    let reference: Reference = repository.parse().map_err(|error| bad(format!("{error}")))?;
    let place =
        Client::new(Settings::usual(registry, &Folders::of_environment(uid), None)?).destination(&reference, &[])?;
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": SET_TYPE,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}"), "size": 2},
        "layers": [{"mediaType": SET_TYPE, "digest": Digest::of(&set), "size": set.len()}],
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::of(&manifest);
    runtime()?.block_on(async {
        place.put_blob(b"{}").await?;
        place.put_blob(&set).await?;
        place
            .put_manifest(&format!("set-{}", digest.short()), MANIFEST_TYPE, &manifest)
            .await
    })?;
    Ok(reference.pinned(digest).to_string())
}
