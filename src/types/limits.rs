//! Limits of one container, as asked and as the board's defaults fill them in.

use std::collections::BTreeMap;
use std::fmt;

use super::text::{format_size, parse_size};

/// Bytes that documents write as `"64M"` or as a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Thousandths of a processor; documents write `"0.5"`, `0.5` or `2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpu(pub u32);

/// The largest number of processors, in thousandths, that is accepted.
pub const MILLI_CPU_MAX: u32 = 1024 * 1000;

/// What one container may use. `None` means: nothing was said.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Hard memory limit (memory.max).
    pub memory: Option<Bytes>,
    /// Memory above which the kernel throttles and reclaims (memory.high).
    pub memory_high: Option<Bytes>,
    /// Swap on top of memory (memory.swap.max; not podman's sum of both).
    pub swap: Option<Bytes>,
    /// Processor time per wall time (cpu.max).
    pub cpu: Option<MilliCpu>,
    /// Share under contention, 1 to 10,000, 100 is the kernel's default (cpu.weight).
    pub cpu_weight: Option<u32>,
    /// Tasks (pids.max).
    pub pids: Option<u32>,
    /// Block devices: `"8:0"` or `"/dev/sda"` to its rates.
    pub io: BTreeMap<String, IoLimit>,
    /// Processors, as the kernel lists them: `0-1,3` (cpuset.cpus).
    pub cpuset: Option<String>,
}

/// Rates on one block device (io.max); `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IoLimit {
    /// Bytes read per second.
    pub read: Option<Bytes>,
    /// Bytes written per second.
    pub write: Option<Bytes>,
    /// Reads per second.
    pub read_iops: Option<u32>,
    /// Writes per second.
    pub write_iops: Option<u32>,
}

/// A limit by name, for errors and for `not enforced` reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// `memory`
    Memory,
    /// `memory_high`
    MemoryHigh,
    /// `swap`
    Swap,
    /// `cpu`
    Cpu,
    /// `cpu_weight`
    CpuWeight,
    /// `pids`
    Pids,
    /// `io`
    Io,
    /// `cpuset`
    Cpuset,
}

impl LimitKind {
    /// Every kind.
    pub const ALL: [LimitKind; 8] = [
        LimitKind::Memory,
        LimitKind::MemoryHigh,
        LimitKind::Swap,
        LimitKind::Cpu,
        LimitKind::CpuWeight,
        LimitKind::Pids,
        LimitKind::Io,
        LimitKind::Cpuset,
    ];

    /// The key in documents.
    pub const fn key(self) -> &'static str {
        match self {
            LimitKind::Memory => "memory",
            LimitKind::MemoryHigh => "memory_high",
            LimitKind::Swap => "swap",
            LimitKind::Cpu => "cpu",
            LimitKind::CpuWeight => "cpu_weight",
            LimitKind::Pids => "pids",
            LimitKind::Io => "io",
            LimitKind::Cpuset => "cpuset",
        }
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// A limit that the host cannot enforce: which, why, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NotEnforced {
    /// Which limit.
    pub limit: LimitKind,
    /// Why the host cannot.
    pub cause: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for NotEnforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "limit `{}` cannot be enforced: {}; {}",
            self.limit, self.cause, self.fix
        )
    }
}

impl Limits {
    /// Whether a limit of this kind is set.
    pub fn is_set(&self, kind: LimitKind) -> bool {
        match kind {
            LimitKind::Memory => self.memory.is_some(),
            LimitKind::MemoryHigh => self.memory_high.is_some(),
            LimitKind::Swap => self.swap.is_some(),
            LimitKind::Cpu => self.cpu.is_some(),
            LimitKind::CpuWeight => self.cpu_weight.is_some(),
            LimitKind::Pids => self.pids.is_some(),
            LimitKind::Io => !self.io.is_empty(),
            LimitKind::Cpuset => self.cpuset.is_some(),
        }
    }

    /// The kinds that are set.
    pub fn kinds(&self) -> Vec<LimitKind> {
        LimitKind::ALL.into_iter().filter(|k| self.is_set(*k)).collect()
    }

    /// These limits, with `defaults` where nothing is said; a default swap comes only with a default memory.
    pub fn or(&self, defaults: &Limits) -> Limits {
        Limits {
            memory: self.memory.or(defaults.memory),
            memory_high: self
                .memory_high
                .or(defaults.memory_high.filter(|_| self.memory.is_none())),
            swap: self.swap.or(defaults.swap),
            cpu: self.cpu.or(defaults.cpu),
            cpu_weight: self.cpu_weight.or(defaults.cpu_weight),
            pids: self.pids.or(defaults.pids),
            io: if self.io.is_empty() {
                defaults.io.clone()
            } else {
                self.io.clone()
            },
            cpuset: self.cpuset.clone().or_else(|| defaults.cpuset.clone()),
        }
    }

    /// What is wrong with the values, each with its key.
    pub fn problems(&self) -> Vec<(LimitKind, String)> {
        let mut found = Vec::new();
        let mut say = |kind, text: &str| found.push((kind, text.to_owned()));
        if self.memory.is_some_and(|m| m.0 < 512 << 10) {
            say(LimitKind::Memory, "below 512K no program starts");
        }
        if let (Some(high), Some(max)) = (self.memory_high, self.memory)
            && high > max
        {
            say(LimitKind::MemoryHigh, "is above `memory`");
        }
        if self.cpu.is_some_and(|c| c.0 < 10) {
            say(LimitKind::Cpu, "the least is 0.01");
        }
        if self.cpu_weight.is_some_and(|w| !(1..=10_000).contains(&w)) {
            say(LimitKind::CpuWeight, "must be 1 to 10000");
        }
        if self.pids.is_some_and(|p| p == 0 || p > 4_194_304) {
            say(LimitKind::Pids, "must be 1 to 4194304");
        }
        if self.cpuset.as_deref().is_some_and(|c| !is_cpu_list(c)) {
            say(LimitKind::Cpuset, "must be a list such as `0-1,3`");
        }
        if self.io.len() > 16 || self.io.keys().any(|k| !is_device(k)) {
            say(
                LimitKind::Io,
                "keys are block devices, `/dev/NAME` or `MAJOR:MINOR`, 16 at most",
            );
        }
        found
    }
}

fn is_cpu_list(text: &str) -> bool {
    let number = |n: &str| (1..=4).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 256
        && text.split(',').all(|part| match part.split_once('-') {
            Some((from, to)) => number(from) && number(to) && from.parse::<u16>().ok() <= to.parse::<u16>().ok(),
            None => number(part),
        })
}

fn is_device(text: &str) -> bool {
    let number = |n: &str| (1..=7).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
    let path = |p: &str| {
        p.len() <= 64
            && !p.contains("..")
            && p.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.'))
    };
    text.split_once(':')
        .is_some_and(|(major, minor)| number(major) && number(minor))
        || text.strip_prefix("/dev/").is_some_and(path)
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_size(self.0))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}", self.0 / 1000)
        } else {
            let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
            f.write_str(text.trim_end_matches('0'))
        }
    }
}

impl fmt::Debug for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for MilliCpu {
    type Err = String;

    fn from_str(text: &str) -> Result<MilliCpu, String> {
        let wrong = || {
            format!(
                "`{}` is not a number of processors such as `0.5`",
                text.chars().take(32).collect::<String>()
            )
        };
        let plain = !text.is_empty() && text.len() <= 16 && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let milli = if plain {
            text.parse::<f64>().map_err(|_| wrong())? * 1000.0
        } else {
            return Err(wrong());
        };
        if milli > f64::from(MILLI_CPU_MAX) {
            return Err(wrong());
        }
        Ok(MilliCpu(milli.round() as u32))
    }
}

/// Deserialises either a number or a text of a document.
struct NumberOrText<T>(fn(f64) -> Option<T>, fn(&str) -> Option<T>, &'static str);

impl<T> serde::de::Visitor<'_> for NumberOrText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.2)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<T, E> {
        (self.0)(value as f64).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(value), &self.2))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<T, E> {
        (self.0)(value as f64).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Signed(value), &self.2))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<T, E> {
        (self.0)(value).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Float(value), &self.2))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<T, E> {
        (self.1)(value).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(value), &self.2))
    }
}

impl<'de> serde::Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        if !deserializer.is_human_readable() {
            return Ok(Bytes(u64::deserialize(deserializer)?));
        }
        let number = |n: f64| ((0.0..9e15).contains(&n) && n.fract() == 0.0).then_some(Bytes(n as u64));
        deserializer.deserialize_any(NumberOrText(
            number,
            |t| parse_size(t).map(Bytes),
            "a size such as \"64M\"",
        ))
    }
}

impl serde::Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> serde::Deserialize<'de> for MilliCpu {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<MilliCpu, D::Error> {
        if !deserializer.is_human_readable() {
            return Ok(MilliCpu(u32::deserialize(deserializer)?));
        }
        let number = |n: f64| {
            (0.0..=f64::from(MILLI_CPU_MAX) / 1000.0)
                .contains(&n)
                .then_some(MilliCpu((n * 1000.0).round() as u32))
        };
        deserializer.deserialize_any(NumberOrText(
            number,
            |t| t.parse().ok(),
            "a number of processors such as \"0.5\"",
        ))
    }
}

impl serde::Serialize for MilliCpu {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_may_write_numbers_or_texts() {
        let limits: Limits =
            serde_json::from_str(r#"{"memory":"64M","cpu":"0.5","pids":64,"swap":0,"io":{"8:0":{"read":"1M"}}}"#)
                .unwrap();
        assert_eq!(limits.memory, Some(Bytes(64 << 20)));
        assert_eq!(limits.cpu, Some(MilliCpu(500)));
        assert_eq!(limits.swap, Some(Bytes(0)));
        assert!(limits.problems().is_empty());
        let same: Limits = serde_json::from_str(&serde_json::to_string(&limits).unwrap()).unwrap();
        assert_eq!(same, limits);
        let packed: Limits = postcard::from_bytes(&postcard::to_allocvec(&Limits::default()).unwrap()).unwrap();
        assert_eq!(packed, Limits::default());
        for bad in [
            r#"{"memory":"64X"}"#,
            r#"{"memory":-1}"#,
            r#"{"cpu":"a"}"#,
            r#"{"cpu":-0.1}"#,
            r#"{"oops":1}"#,
            r#"{"cpu":"1e9"}"#,
        ] {
            assert!(serde_json::from_str::<Limits>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn problems_name_their_key() {
        let limits = Limits {
            memory: Some(Bytes(1)),
            memory_high: Some(Bytes(2)),
            cpu: Some(MilliCpu(1)),
            cpu_weight: Some(0),
            pids: Some(0),
            cpuset: Some("3-1".into()),
            io: BTreeMap::from([("sda".to_owned(), IoLimit::default())]),
            ..Limits::default()
        };
        let kinds: Vec<LimitKind> = limits.problems().into_iter().map(|(k, _)| k).collect();
        use LimitKind::{Cpu, CpuWeight, Cpuset, Io, Memory, MemoryHigh, Pids};
        assert_eq!(kinds, [Memory, MemoryHigh, Cpu, CpuWeight, Pids, Cpuset, Io]);
        assert_eq!(MilliCpu(500).to_string(), "0.5");
        assert_eq!(MilliCpu(2000).to_string(), "2");
    }
}
