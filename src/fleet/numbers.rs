//! Generations, ids and salts of documents.

use super::FleetError;
use crate::types::digest;
use crate::types::time::Unix;
use ring::rand::SecureRandom as _;

/// Generations are Unix seconds: one that lies further ahead than this is nobody's, seconds.
const AHEAD_S: u64 = 10 * 366 * 86_400;

/// The generation of the next document: above all that were seen, and at least the time in seconds. Numbers from far in the
/// future do not count: whoever owns the broker could use up all there are.
pub fn next(now: Unix, seen: impl IntoIterator<Item = u64>) -> u64 {
    let bound = now.seconds() + AHEAD_S;
    let highest = seen.into_iter().filter(|number| *number < bound).max().unwrap_or(0);
    (highest + 1).max(now.seconds())
}

/// The time.
pub fn now() -> Unix {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Unix(since.map_or(0, |since| since.as_millis() as u64))
}

/// `N` random bytes.
pub fn random<const N: usize>() -> Result<[u8; N], FleetError> {
    let mut bytes = [0; N];
    match ring::rand::SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(FleetError::System {
            what: "random bytes",
            source: std::io::ErrorKind::Unsupported.into(),
        }),
    }
}

/// A short random word of hexadecimal digits.
pub fn word() -> Result<String, FleetError> {
    Ok(digest::hex(&random::<4>()?))
}

/// A UUID of version 7 (RFC 9562): the time, then random bits.
pub fn uuid(now: Unix) -> Result<String, FleetError> {
    let mut bytes: [u8; 16] = random()?;
    bytes[..6].copy_from_slice(&now.0.to_be_bytes()[2..]);
    bytes[6] = bytes[6] & 0x0f | 0x70;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = digest::hex(&bytes);
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_generation_is_above_all_and_not_before_the_time() {
        let now = Unix(1_795_302_000_500);
        for (seen, expected) in [
            (vec![], 1_795_302_000),
            (vec![7], 1_795_302_000),
            (vec![1_795_302_000], 1_795_302_001),
            (vec![5, 1_795_399_999, 6], 1_795_400_000),
            (vec![u64::MAX, 1_795_302_003], 1_795_302_004),
        ] {
            assert_eq!(next(now, seen.clone()), expected, "{seen:?}");
        }
    }

    #[test]
    fn uuids_are_of_version_7_and_begin_with_the_time() {
        let id = uuid(Unix(0x0199_aabb_ccdd)).unwrap();
        assert_eq!(&id[..15], "0199aabb-ccdd-7");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"));
        assert_eq!(id.len(), 36);
        assert_ne!(id, uuid(Unix(0x0199_aabb_ccdd)).unwrap());
    }
}
