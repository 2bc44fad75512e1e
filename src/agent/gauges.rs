//! What the device is like: what may hold updates back, what it is short of (room on the disk, memory), what wears it out. Read when the
//! loop wakes up anyway, once a minute at the least.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::agent::Settings;
use crate::deploy::Conditions;
use crate::plan::pressure;
use crate::plan::wear::Wear;
use crate::sys::{clock, fs};
use crate::types::document::Assign;
use crate::types::time::Mono;

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
    /// The hardware watchdog is to be fed, and cannot be.
    pub unwatched: bool,
    wear: Option<Wear>,
    /// Where the kernel counts what is written to the disk.
    counter: PathBuf,
}

impl Gauges {
    /// Gauges of the disk of `data`, of which `reserve` bytes are to stay free, and to which `budget` bytes may be written a day.
    pub fn new(data: PathBuf, reserve: u64, budget: Option<u64>) -> Gauges {
        let counter = counter(&data);
        if let (Some(_), None) = (budget, &counter) {
            crate::warn!(
                "nothing counts what is written to `{}`: its write budget has no effect",
                data.display()
            );
        }
        Gauges {
            reserve,
            counter: counter.unwrap_or_default(),
            wear: budget.map(Wear::new),
            data,
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

    /// Reads what was written to the disk today; what there is to tell when that is too much.
    pub fn wear(&mut self, now: Mono) -> Option<String> {
        let wear = self.wear.as_mut()?;
        let counted = sectors(&std::fs::read_to_string(&self.counter).ok()?)?.checked_mul(512)?;
        let written = wear.read(now, counted)?;
        Some(format!(
            "{} MB were written to the disk today, more than its write budget: `dunlin stats` shows which container writes",
            written / 1_000_000
        ))
    }

    /// What `reported` says.
    pub fn words(&self) -> Vec<String> {
        let worn = self.wear.as_ref().is_some_and(Wear::is_over);
        let words = [
            (self.full, "disk"),
            (self.short, "memory"),
            (worn, "writes"),
            (self.unwatched, "watchdog"),
        ];
        words
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, word)| word.to_owned())
            .collect()
    }
}

/// Where the kernel counts what is written to the whole block device that holds a folder; nowhere for file systems without one of their
/// own.
fn counter(data: &Path) -> Option<PathBuf> {
    let device = std::fs::metadata(data).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let device = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let whole = if device.join("partition").exists() {
        device.parent()?
    } else {
        &device
    };
    Some(whole.join("stat")).filter(|path| path.exists())
}

/// Sectors written, of a block device's `stat`.
fn sectors(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(6)?.parse().ok()
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
    fn written_sectors_are_the_seventh_number() {
        let stat =
            "    4719      962   308826     2311    31035    26563   903634    18094        0    17436    20406\n";
        assert_eq!(sectors(stat), Some(903_634));
        for bad in ["", "1 2 3 4 5 6", "1 2 3 4 5 6 x"] {
            assert_eq!(sectors(bad), None, "{bad}");
        }
    }

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
