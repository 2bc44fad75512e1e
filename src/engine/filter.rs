//! `--filter KEY=VALUE` over containers, as podman has it: values of one key are alternatives, keys must all fit.

use super::view::ContainerView;
use crate::types::container::{MountSource, RestartPolicy, Status};
use crate::types::sorted::Sorted;
use crate::types::time::{Span, Unix};

/// Conditions on containers.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    conditions: Sorted<String, Vec<String>>,
}

/// A condition that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("filter `{text}`: {reason}")]
pub struct FilterError {
    text: String,
    reason: String,
}

const KEYS: [&str; 15] = [
    "ancestor",
    "before",
    "command",
    "exited",
    "health",
    "id",
    "is-infra",
    "label",
    "name",
    "network",
    "restart-policy",
    "since",
    "status",
    "until",
    "volume",
];

impl Filter {
    /// Parses `KEY=VALUE` texts; `label!=…` is the label's absence.
    pub fn parse(texts: &[String]) -> Result<Filter, FilterError> {
        let mut conditions: Sorted<String, Vec<String>> = Sorted::new();
        for text in texts {
            let error = |reason: &str| FilterError {
                text: text.clone(),
                reason: reason.to_owned(),
            };
            let (key, value) = text.split_once('=').ok_or_else(|| error("write KEY=VALUE"))?;
            let known = KEYS.contains(&key) || key == "label!" || key == "ctr-status";
            if !known {
                return Err(error(&format!("`{key}` is not one of {}", KEYS.join(", "))));
            }
            match key {
                "status" | "ctr-status" if status_word(value).is_none() => {
                    return Err(error("there is no such status"));
                }
                "exited" if value.parse::<i32>().is_err() => return Err(error("an exit code is a number")),
                "until" if point(value, Unix(u64::MAX / 2)).is_none() => {
                    return Err(error("neither a time nor a duration"));
                }
                _ => {}
            }
            let key = if key == "ctr-status" { "status" } else { key };
            conditions.or_default(key.to_owned()).push(value.to_owned());
        }
        Ok(Filter { conditions })
    }

    /// A filter by one label.
    pub fn label(name: &str, value: &str) -> Filter {
        Filter {
            conditions: Sorted::from_iter([("label".to_owned(), vec![format!("{name}={value}")])]),
        }
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether a state is asked for, so that containers that do not run are meant too.
    pub fn names_a_status(&self) -> bool {
        ["status", "exited", "health"]
            .iter()
            .any(|key| self.conditions.contains_key(*key))
    }

    /// Names or ids that `before` and `since` compare with.
    pub fn references(&self) -> impl Iterator<Item = &String> {
        ["before", "since"]
            .into_iter()
            .filter_map(|key| self.conditions.get(key))
            .flatten()
    }

    /// Whether a container fits; `created` gives the creation time of the containers that [`Filter::references`] names.
    pub fn fits(&self, view: &ContainerView, now: Unix, created: &dyn Fn(&str) -> Option<Unix>) -> bool {
        self.conditions.iter().all(|(key, values)| match key.as_str() {
            // All labels must be there, and none of those that must not.
            "label" => values.iter().all(|value| has_label(view, value)),
            "label!" => !values.iter().any(|value| has_label(view, value)),
            key => values.iter().any(|value| fits_one(view, key, value, now, created)),
        })
    }
}

fn fits_one(view: &ContainerView, key: &str, value: &str, now: Unix, created: &dyn Fn(&str) -> Option<Unix>) -> bool {
    let record = &view.record;
    match key {
        "id" => record.id.hex().starts_with(value),
        "name" => fits_name(&record.name, value),
        "status" => status_word(value).is_some_and(|statuses| statuses.contains(&view.status)),
        "exited" => view.status == Status::Exited && value.parse() == Ok(view.exit_code()),
        "health" => view.health.as_str() == value,
        "ancestor" => {
            let name = &record.image_name;
            let without_tag = name.rsplit_once(':').map_or(name.as_str(), |(name, _)| name);
            name == value
                || without_tag == value
                || without_tag.ends_with(&format!("/{value}"))
                || name.ends_with(&format!("/{value}"))
                || (value.len() >= 3 && record.image.hex().starts_with(value))
        }
        "volume" => record.spec.mounts.iter().any(|mount| {
            mount.target == value
                || matches!(&mount.source, MountSource::Bind(source) | MountSource::Volume(source) if source == value)
        }),
        "network" => record.network_mode() == value,
        "restart-policy" => match record.spec.restart {
            RestartPolicy::No => value == "no",
            RestartPolicy::OnFailure(_) => value == "on-failure",
            RestartPolicy::Always => value == "always",
            RestartPolicy::UnlessStopped => value == "unless-stopped",
        },
        "command" => record.spec.args.first().is_some_and(|program| program == value),
        "before" => created(value).is_some_and(|other| record.created < other),
        "since" => created(value).is_some_and(|other| record.created > other),
        "until" => point(value, now).is_some_and(|until| record.created < until),
        "pod" => record
            .wiring
            .pod
            .is_some_and(|pod| value.len() >= 3 && pod.hex().starts_with(value)),
        "is-infra" => value == if record.wiring.infra.is_some() { "true" } else { "false" },
        _ => false,
    }
}

/// podman matches names as regular expressions; here `^` and `$` anchor and the rest is text, which is what people type.
fn fits_name(name: &str, value: &str) -> bool {
    let (start, value) = value.strip_prefix('^').map_or((false, value), |value| (true, value));
    let (end, value) = value.strip_suffix('$').map_or((false, value), |value| (true, value));
    match (start, end) {
        (true, true) => name == value,
        (true, false) => name.starts_with(value),
        (false, true) => name.ends_with(value),
        (false, false) => name.contains(value),
    }
}

fn has_label(view: &ContainerView, text: &str) -> bool {
    let labels = &view.record.spec.labels;
    match text.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(text),
    }
}

fn status_word(word: &str) -> Option<&'static [Status]> {
    Some(match word {
        "created" | "configured" | "initialized" => &[Status::Created],
        "running" | "up" => &[Status::Running],
        "paused" => &[Status::Paused],
        "restarting" => &[Status::Restarting],
        "stopping" => &[Status::Stopping],
        "exited" | "stopped" => &[Status::Exited, Status::Dead],
        "dead" => &[Status::Dead],
        "unknown" | "removing" => &[],
        _ => return None,
    })
}

/// A point in time: RFC 3339, Unix seconds (also with a fraction), or a duration before `now`.
pub fn point(text: &str, now: Unix) -> Option<Unix> {
    if let Some(at) = Unix::parse_rfc3339(text) {
        return Some(at);
    }
    if let Some((date, "")) = text.split_at_checked(10).filter(|(date, _)| date.contains('-')) {
        return Unix::parse_rfc3339(&format!("{date}T00:00:00Z"));
    }
    if text.len() == 19 {
        return Unix::parse_rfc3339(&format!("{text}Z"));
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return (0.0..1e12)
            .contains(&seconds)
            .then_some(Unix((seconds * 1000.0) as u64));
    }
    let span: Span = text.strip_prefix('-').unwrap_or(text).parse().ok()?;
    Some(Unix(now.0.saturating_sub(span.ms())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn points_in_time_are_read_in_every_usual_form() {
        let now = Unix(1_000_000_000_000);
        for (text, want) in [
            ("10m", Some(999_999_400_000)),
            ("1700000000", Some(1_700_000_000_000)),
            ("1700000000.5", Some(1_700_000_000_500)),
            ("2000-01-01T00:00:00Z", Some(946_684_800_000)),
            ("2000-01-01T00:00:00", Some(946_684_800_000)),
            ("2000-01-01", Some(946_684_800_000)),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(point(text, now), want.map(Unix), "{text}");
        }
    }

    #[test]
    fn unknown_conditions_are_refused() {
        for (text, says) in [
            ("x", "KEY=VALUE"),
            ("colour=red", "`colour`"),
            ("status=asleep", "status"),
            ("exited=x", "number"),
        ] {
            let error = Filter::parse(&[text.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(
            fits_name("web-1", "^web")
                && fits_name("web-1", "b-")
                && !fits_name("web-1", "^b")
                && fits_name("web", "^web$")
        );
    }
}
