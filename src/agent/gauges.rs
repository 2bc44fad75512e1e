//! What the device is short of: room on the disk, memory. Read when the loop wakes up anyway, once a minute at the least.

use std::path::PathBuf;

use crate::plan::pressure;
use crate::sys::fs;

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
