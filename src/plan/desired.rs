//! Whether a desired state can be carried out at all: what devices refuse, and operators are told before they publish.

use super::window::Window;
use crate::types::app;
use crate::types::bounds::APPS_BYTES;
use crate::types::document::Desired;
use crate::types::reference::Reference;
use crate::types::time::Unix;

/// Every mistake, each with its path in the document. `pinned`: images must be digests.
pub fn problems(document: &Desired, pinned: bool) -> Vec<String> {
    let mut problems: Vec<String> = app::set_problems(&document.apps, "apps", pinned)
        .iter()
        .map(ToString::to_string)
        .collect();
    let named = |text: &String| text.parse::<Reference>().is_ok_and(|one| one.digest().is_some());
    if document
        .apps_ref
        .as_ref()
        .is_some_and(|text| !named(text) || !document.apps.is_empty())
    {
        problems.push("`apps_ref`: a reference with a digest, and no `apps` beside it".into());
    }
    let size = serde_json::to_vec(&document.apps).map_or(usize::MAX, |v| v.len());
    if size > APPS_BYTES {
        problems.push(format!("`apps`: {size} bytes, at most {APPS_BYTES} are accepted"));
    }
    if document.activity.is_empty() || document.activity.len() > 64 {
        problems.push("`activity`: 1 to 64 characters".into());
    }
    if let Some(rollout) = &document.rollout {
        if !(0.0..=100.0).contains(&rollout.percent) {
            problems.push("`rollout.percent`: 0 to 100".into());
        }
        if rollout.id.is_empty() || rollout.id.len() > 64 || rollout.salt.len() > 64 || rollout.wave.len() > 64 {
            problems.push("`rollout`: id and salt of at most 64 characters, at most 64 labels".into());
        }
        let time = rollout.not_before.as_deref();
        if time.is_some_and(|t| Unix::parse_rfc3339(t).is_none()) {
            problems.push("`rollout.not_before` is not an RFC 3339 time".into());
        }
        if rollout.window.as_deref().is_some_and(|w| w.parse::<Window>().is_err()) {
            problems.push("`rollout.window`: write `02:00-04:00`".into());
        }
    }
    problems
}
