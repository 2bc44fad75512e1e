//! Points in time as podman prints them.

use super::human;
use crate::types::time::Unix;
use std::time::{Duration, SystemTime};

/// Now, by the host's clock.
pub fn now() -> Unix {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Unix(since.as_millis() as u64)
}

/// The span from `then` to `now`; nothing when `then` is later.
pub fn since(then: Unix, now: Unix) -> Duration {
    Duration::from_millis(now.0.saturating_sub(then.0))
}

/// `2 minutes ago`.
pub fn ago(then: Unix, now: Unix) -> String {
    format!("{} ago", human::duration(since(then, now)))
}

/// `2026-11-21 22:00:00.123 +0000 UTC`, Go's way.
pub fn long(at: Unix) -> String {
    let (year, month, day, hour, minute, second) = at.civil();
    let fraction = match at.0 % 1000 {
        0 => String::new(),
        millis => format!(".{millis:03}").trim_end_matches('0').to_owned(),
    };
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction} +0000 UTC")
}

/// RFC 3339 with milliseconds; Go's zero time for none.
pub fn rfc3339(at: Option<Unix>) -> String {
    let Some(at) = at else {
        return "0001-01-01T00:00:00Z".to_owned();
    };
    let (year, month, day, hour, minute, second) = at.civil();
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        at.0 % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_read_as_podmans() {
        let at = Unix(1_795_298_400_120);
        assert_eq!(long(at), "2026-11-21 22:00:00.12 +0000 UTC");
        assert_eq!(rfc3339(Some(at)), "2026-11-21T22:00:00.120Z");
        assert_eq!(rfc3339(None), "0001-01-01T00:00:00Z");
        assert_eq!(ago(at, Unix(at.0 + 120_000)), "2 minutes ago");
        assert_eq!(ago(at, Unix(0)), "Less than a second ago");
    }
}
