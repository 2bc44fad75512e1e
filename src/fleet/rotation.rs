//! The next version of a fleet's keys: signed by the roots of the version before and by its own.

use super::{FleetError, numbers, sign};
use crate::config::agent::Fleet;
use crate::types::keys::{self, Keys};
use crate::types::read;
use crate::uplink;
use crate::uplink::dsse::{self, Kind, Trusted};

/// A file with the whole set, as in a device's settings: `[[fleet.keys]]` and, where they matter, `[fleet.thresholds]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    fleet: Fleet,
}

fn invalid(text: impl std::fmt::Display) -> FleetError {
    FleetError::Invalid(format!("the key document: {text}"))
}

/// The document of a version that names the keys in a TOML file.
pub fn document(text: &str, version: u64) -> Result<Keys, FleetError> {
    let set = read::toml::<Set>(text).map_err(invalid)?.fleet;
    let document = Keys {
        audience: "*".into(),
        generation: version,
        issued_at: numbers::now().rfc3339(),
        keys: set.keys,
        thresholds: set.thresholds,
    };
    trusted(&document)?;
    Ok(document)
}

/// Who may sign when the document counts; every reason for which devices would refuse it.
fn trusted(document: &Keys) -> Result<Trusted, FleetError> {
    let problems = keys::document_problems(document, "fleet.keys");
    if problems.is_empty() {
        Trusted::new(&document.keys, 1, &document.thresholds).map_err(invalid)
    } else {
        Err(invalid(problems.join("; ")))
    }
}

/// Whether an envelope has all signatures: its own roots', and those of the version before, where they are known. Gives its version.
pub fn check(message: &[u8], before: Option<&Trusted>) -> Result<u64, FleetError> {
    let lacking = |whose: &str, error: dsse::EnvelopeError| {
        invalid(format!(
            "signatures of the {whose} roots are missing: {error}; show it with --dry-run, pass it round with \
             `dunlin fleet sign --kind keys`, and rotate to the signed file"
        ))
    };
    let payload = dsse::open(message, Kind::Keys, &Trusted::default()).map_err(invalid)?;
    let document: Keys = read::json(&payload).map_err(invalid)?;
    dsse::open(message, Kind::Keys, &trusted(&document)?).map_err(|error| lacking("new", error))?;
    if let Some(before) = before {
        dsse::open(message, Kind::Keys, before).map_err(|error| lacking("present", error))?;
    }
    Ok(document.generation)
}

/// Who may sign now, by the retained document of the present version, or by the settings where there is none.
pub fn present(retained: Option<&[u8]>, settings: &Fleet) -> Result<Option<Trusted>, FleetError> {
    if let Some(message) = retained {
        let payload = dsse::open(message, Kind::Keys, &Trusted::default()).map_err(invalid)?;
        return trusted(&read::json(&payload).map_err(invalid)?).map(Some);
    }
    let known = settings.keys.iter().any(|key| key.has("root"));
    let made = || Trusted::new(&settings.keys, 1, &settings.thresholds).map_err(invalid);
    known.then(made).transpose()
}

/// The signed document.
pub fn signed(document: &Keys, keys: &[dsse::SigningKey]) -> Result<Vec<u8>, FleetError> {
    Ok(sign::sign(Kind::Keys, &uplink::json(document), keys)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::dsse::SigningKey;

    #[test]
    fn a_set_needs_the_roots_of_both_versions() {
        let [old, new, other] = ["old", "new", "other"].map(|id| SigningKey::generate(id).unwrap());
        let root = |key: &SigningKey| sign::roles_toml(key, &["root".into()]);
        let before: Fleet = read::toml::<Set>(&root(&old)).unwrap().fleet;
        let before = present(None, &before).unwrap().unwrap();
        let text = root(&new) + &sign::public_toml(&other);
        let document = document(&text, 2).unwrap();
        let sign = |keys: &[SigningKey]| signed(&document, keys).unwrap();
        let both = sign(&[old, new]);
        assert_eq!(check(&both, Some(&before)).unwrap(), 2);
        assert!(present(Some(&both), &Fleet::default()).unwrap().is_some());
        let error = check(&sign(&[other]), Some(&before)).unwrap_err().to_string();
        assert!(error.contains("new roots"), "{error}");
        let stranger = Trusted {
            keys: vec![SigningKey::generate("x").unwrap().public()],
            threshold: 1,
            ..Trusted::default()
        };
        let error = check(&both, Some(&stranger)).unwrap_err().to_string();
        assert!(error.contains("present roots"), "{error}");
    }

    #[test]
    fn sets_without_a_root_are_refused() {
        let key = SigningKey::generate("a").unwrap();
        assert!(document(&sign::public_toml(&key), 2).is_err());
        assert!(document("[fleet]\nkey=1", 2).is_err());
        assert_eq!(present(None, &Fleet::default()).unwrap(), None);
    }
}
