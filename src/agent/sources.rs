//! Which desired state is effective: the device's own unless it defers, else the first of its groups' that has one
//! (PROTOCOL.md, "One source is effective").

use std::collections::BTreeMap;

use crate::types::document::Desired;

/// The name of the source of local app documents.
pub const LOCAL: &str = "local";

/// The effective source among the stored documents, keyed by `d/DEVICE` and `g/GROUP`.
pub fn effective<'a>(
    documents: &'a BTreeMap<String, Desired>,
    device: &str,
    groups: &[String],
) -> Option<(&'a str, &'a Desired)> {
    let own = documents.get_key_value(&format!("d/{device}"));
    let group = || groups.iter().find_map(|g| documents.get_key_value(&format!("g/{g}")));
    own.filter(|(_, d)| !d.defer)
        .or_else(group)
        .map(|(source, d)| (source.as_str(), d))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(audience: &str, defer: bool) -> (String, Desired) {
        let text = format!(
            r#"{{"audience":"{audience}","generation":1,"activity":"a","issued_at":"2026-01-01T00:00:00Z","defer":{defer}}}"#
        );
        (audience.to_owned(), serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn the_device_comes_first_unless_it_defers_then_groups_in_order() {
        let groups = ["b".to_owned(), "a".to_owned()];
        for (stored, expected) in [
            (vec![], None),
            (vec![document("d/x", false), document("g/a", false)], Some("d/x")),
            (vec![document("d/x", true), document("g/a", false)], Some("g/a")),
            (vec![document("d/x", true)], None),
            (vec![document("g/a", false), document("g/b", false)], Some("g/b")),
            (vec![document("g/c", false)], None),
        ] {
            let stored: BTreeMap<String, Desired> = stored.into_iter().collect();
            assert_eq!(effective(&stored, "x", &groups).map(|(s, _)| s), expected);
        }
    }
}
