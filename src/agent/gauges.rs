//! What the device is like: what may hold updates back, what it is short of (room on the disk, memory). Read when the loop wakes up anyway, once a minute at the least.

use std::path::PathBuf;

use crate::config::agent::Settings;
use crate::deploy::Conditions;
use crate::plan::pressure;
use crate::sys::{clock, fs};
use crate::types::document::Assign;

/// Where the kernel says how much tasks wait for memory.
const PRESSURE: &str = "/proc/pressure/memory";

/// The gauges, and what they said last.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    data: PathBuf,
    reserve: u64,
    /// The data folder's disk is at its reserve.
    pub full: bool,
    /// Tasks wait for memory.
    pub short: bool,
}

impl Gauges {
    /// Gauges of the disk of `data`, of which `reserve` bytes are to stay free.
    pub fn new(data: PathBuf, reserve: u64) -> Gauges {
        Gauges {
            data,
            reserve,
            ..Gauges::default()
        }
    }

    /// Reads them; what memory pressure there is to tell, when it has begun or is over.
    pub fn read(&mut self) -> Option<String> {
        if let Ok(space) = fs::open_dir(&self.data).and_then(fs::space) {
            self.full = pressure::disk_full(self.full, space.bytes, self.reserve);
        }
        // Kernels without it have no such file.
        let stalled = pressure::stalled(&std::fs::read_to_string(PRESSURE).ok()?)?;
        let was = self.short;
        self.short = pressure::memory_short(was, stalled);
        let (whole, part) = (stalled / 100, stalled % 100);
        (was != self.short).then(|| match self.short {
            true => format!("memory is short: everything stood still for {whole}.{part:02} % of the last minute"),
            false => "memory is no longer short".to_owned(),
        })
    }

    /// What `reported` says.
    pub fn words(&self) -> Vec<String> {
        let words = [(self.full, "disk"), (self.short, "memory")];
        words
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, word)| word.to_owned())
            .collect()
    }
}

/// What may hold updates back, as it is now.
pub(super) fn conditions(settings: &Settings, assign: &Assign, renewing: bool) -> Conditions {
    Conditions {
        synchronised: clock::is_synchronised(),
        offset: assign.time_zone.as_deref().and_then(offset).unwrap_or(0),
        metered: assign.metered,
        full: false,
        labels: assign.labels.iter().chain(&settings.device.labels).cloned().collect(),
        renewing,
    }
}

/// Seconds east of UTC of `UTC` or `+HH:MM`.
fn offset(zone: &str) -> Option<i32> {
    if zone == "UTC" {
        return Some(0);
    }
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    ((0..=14).contains(&hours) && (0..60).contains(&minutes)).then_some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_zones_are_utc_or_an_offset() {
        for (zone, expected) in [
            ("UTC", Some(0)),
            ("+01:00", Some(3600)),
            ("-03:30", Some(-12_600)),
            ("Europe/Berlin", None),
            ("+15:00", None),
            ("", None),
        ] {
            assert_eq!(offset(zone), expected, "{zone}");
        }
    }
}
