//! Names as PROTOCOL.md defines them, sizes as people write them.

use super::bounds::{CONTAINER_NAME_BYTES, NAME_BYTES};

/// Whether `text` is a name of a device, group, app, secret or verb: `[a-z0-9][a-z0-9_-]{0,62}`.
pub fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let head = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    matches!(bytes.len(), 1..=NAME_BYTES) && head(bytes[0]) && bytes.iter().all(|&b| head(b) || b == b'_' || b == b'-')
}

/// Whether `text` is a container, volume or pod name: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, podman's rule.
pub fn is_container_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!(bytes.len(), 1..=CONTAINER_NAME_BYTES)
        && bytes[0].is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Bytes that a size such as `64M`, `1.5g`, `512k`, `100` or `64MiB` names; units are powers of 1024, case is ignored.
pub fn parse_size(text: &str) -> Option<u64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    if number.is_empty() || text.len() > 32 {
        return None;
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let bytes = number.parse::<f64>().ok()? * (1u64 << shift) as f64;
    (bytes.is_finite() && (0.0..9e18).contains(&bytes)).then_some(bytes as u64)
}

/// A size with the largest unit that divides it: `64M`, `1G`, `1000`.
pub fn format_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_protocol() {
        for good in ["a", "0", "web", "gw-0017", "a_b-c", &"x".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a.b", "a/b", "a b", "ä", &"x".repeat(64), "a\n"] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_container_name("Web.1_x-y"));
        assert!(!is_container_name(".x"));
        assert!(!is_container_name("a/b"));
    }

    #[test]
    fn sizes_go_both_ways() {
        for (text, bytes) in [
            ("64M", 64 << 20),
            ("1g", 1 << 30),
            ("512k", 512 << 10),
            ("100", 100),
            ("1.5K", 1536),
            ("64MiB", 64 << 20),
            ("7b", 7),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "M", "-1", "1x", "99999999T", "1..5M", "1 M"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
        assert_eq!(format_size(64 << 20), "64M");
        assert_eq!(format_size(1000), "1000");
        assert_eq!(format_size(0), "0");
    }
}
