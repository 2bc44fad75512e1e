//! Tags become digests: when a document is signed it is decided once what runs, for every platform.

use super::FleetError;
use crate::config::agent::Registry;
use crate::config::folders::Folders;
use crate::registry::{Client, Settings, names};
use crate::types::app::App;
use crate::types::reference::Reference;

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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| FleetError::System {
        what: "make a runtime for the registry",
        source,
    })?;
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
