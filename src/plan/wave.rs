//! Waves without a server: whether this device takes part in a rollout, and when it starts (PROTOCOL.md, "Desired state").

use crate::types::digest::Digest;

/// The device's place in a rollout: the first 4 bytes of SHA-256(salt ‖ device), big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub u32);

/// The place of `device` under `salt`.
pub fn place(salt: &str, device: &str) -> Place {
    let digest = Digest::of([salt.as_bytes(), device.as_bytes()].concat().as_slice());
    let bytes = digest.as_bytes();
    Place(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

impl Place {
    /// Whether the place lies below `percent` (0 to 100, fractions allowed): place / 2³² < percent / 100.
    pub fn below(self, percent: f64) -> bool {
        f64::from(self.0) / 4_294_967_296.0 < percent / 100.0
    }

    /// Milliseconds to wait before starting when starts are spread over `spread` milliseconds: place mod spread.
    pub fn delay(self, spread: u64) -> u64 {
        if spread == 0 { 0 } else { u64::from(self.0) % spread }
    }
}

/// Whether the device takes part: by its place, or by a label that the rollout names.
pub fn takes_part(place: Place, percent: f64, wave: &[String], labels: &[String]) -> bool {
    place.below(percent) || wave.iter().any(|wanted| labels.contains(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_the_first_four_bytes_of_the_hash() {
        // SHA-256 of the empty text begins with e3b0c442.
        assert_eq!(place("", ""), Place(0xe3b0_c442));
        assert_eq!(place("k", "3gw"), place("k3", "gw"));
        assert_ne!(place("k3", "gw-1"), place("k4", "gw-1"));
    }

    #[test]
    fn percent_bounds_are_exact() {
        assert!(!Place(0).below(0.0));
        assert!(Place(0).below(0.001));
        assert!(Place(u32::MAX).below(100.0));
        assert!(Place((1 << 31) - 1).below(50.0));
        assert!(!Place(1 << 31).below(50.0));
        assert!(!Place(5).below(f64::NAN));
    }

    #[test]
    fn about_the_asked_share_of_a_fleet_takes_part() {
        let count = (0..10_000)
            .filter(|n| place("k3", &format!("gw-{n:04}")).below(5.0))
            .count();
        assert!((400..600).contains(&count), "{count} of 10,000");
    }

    #[test]
    fn labels_let_a_device_in() {
        let (wave, labels) = (vec!["canary".to_owned()], vec!["eu".to_owned(), "canary".to_owned()]);
        assert!(takes_part(Place(u32::MAX), 0.0, &wave, &labels));
        assert!(!takes_part(Place(u32::MAX), 0.0, &wave, &labels[..1]));
        assert!(!takes_part(Place(u32::MAX), 0.0, &[], &labels));
    }

    #[test]
    fn starts_are_spread() {
        assert_eq!(Place(1_234_567).delay(600_000), 34_567);
        assert_eq!(Place(7).delay(0), 0);
    }
}
