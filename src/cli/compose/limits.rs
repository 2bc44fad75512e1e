//! Limits as podman's flags say them → [`Limits`].

use super::{FlagError, wrong};
use crate::cli::args::LimitArgs;
use crate::types::limits::{Bytes, IoLimit, Limits, MilliCpu};
use crate::types::text::parse_size;
use std::collections::BTreeMap;

/// As many tasks as Linux can have: what `--pids-limit -1` means.
pub const PIDS_UNLIMITED: u32 = 4_194_304;
/// More swap than there is: what `--memory-swap -1` means.
pub const SWAP_UNLIMITED: Bytes = Bytes(i64::MAX as u64);

/// The limits that the flags ask for.
pub fn limits(args: &LimitArgs) -> Result<Limits, FlagError> {
    let memory = optional_size("--memory", &args.memory)?;
    Ok(Limits {
        memory,
        memory_high: optional_size("--memory-reservation", &args.memory_reservation)?,
        swap: swap(args.memory_swap.as_deref(), memory)?,
        cpu: cpu(args)?,
        cpu_weight: args
            .cpu_weight
            .or(args.cpu_shares.filter(|shares| *shares != 0).map(weight)),
        pids: match args.pids_limit {
            None => None,
            Some(-1 | 0) => Some(PIDS_UNLIMITED),
            Some(number) => {
                Some(u32::try_from(number).map_err(|_| wrong("--pids-limit", number.to_string(), "a number, or -1"))?)
            }
        },
        io: io(args)?,
        cpuset: args.cpuset_cpus.clone(),
    })
}

fn size(flag: &'static str, text: &str) -> Result<u64, FlagError> {
    parse_size(text).ok_or_else(|| wrong(flag, text, "not a size; write for example `64m`"))
}

/// A size where 0 means that nothing is said.
fn optional_size(flag: &'static str, text: &Option<String>) -> Result<Option<Bytes>, FlagError> {
    match text {
        Some(text) => Ok(Some(Bytes(size(flag, text)?)).filter(|bytes| bytes.0 != 0)),
        None => Ok(None),
    }
}

/// podman's flag is the sum of memory and swap.
fn swap(text: Option<&str>, memory: Option<Bytes>) -> Result<Option<Bytes>, FlagError> {
    let flag = "--memory-swap";
    match text {
        None | Some("0" | "") => Ok(None),
        Some("-1") => Ok(Some(SWAP_UNLIMITED)),
        Some(text) => {
            let sum = size(flag, text)?;
            let memory =
                memory.ok_or_else(|| wrong(flag, text, "it is the sum of memory and swap: --memory is needed too"))?;
            let swap = sum.checked_sub(memory.0);
            Ok(Some(Bytes(swap.ok_or_else(|| {
                wrong(flag, text, "it is the sum of memory and swap: at least --memory")
            })?)))
        }
    }
}

fn cpu(args: &LimitArgs) -> Result<Option<MilliCpu>, FlagError> {
    let quota = args.cpu_quota.filter(|quota| *quota > 0);
    match (&args.cpus, quota) {
        (Some(text), Some(_)) => Err(wrong("--cpus", text, "conflicts with --cpu-quota")),
        (Some(text), None) => {
            let cpus: MilliCpu = text
                .parse()
                .map_err(|_| wrong("--cpus", text, "a number of processors such as `0.5`"))?;
            Ok(Some(cpus).filter(|cpus| cpus.0 != 0))
        }
        (None, Some(quota)) => {
            let period = args.cpu_period.unwrap_or(100_000);
            let milli = (quota.unsigned_abs() * 1000)
                .checked_div(period)
                .and_then(|milli| u32::try_from(milli).ok());
            let milli = milli.ok_or_else(|| wrong("--cpu-period", period.to_string(), "too small for the quota"))?;
            Ok(Some(MilliCpu(milli)))
        }
        (None, None) => match args.cpu_period {
            Some(period) => Err(wrong(
                "--cpu-period",
                period.to_string(),
                "says nothing without --cpu-quota",
            )),
            None => Ok(None),
        },
    }
}

/// Shares of cgroup v1 (1024 is usual) as a weight of v2 (100 is usual), by the curve that crun and runc use now.
fn weight(shares: u64) -> u32 {
    let shares = shares.clamp(2, 262_144) as f64;
    let log = shares.log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u32).clamp(1, 10_000)
}

fn io(args: &LimitArgs) -> Result<BTreeMap<String, IoLimit>, FlagError> {
    let mut limits: BTreeMap<String, IoLimit> = BTreeMap::new();
    let mut each = |flag: &'static str, texts: &[String], set: &dyn Fn(&mut IoLimit, &str) -> Option<()>| {
        for text in texts {
            let (device, value) = text
                .rsplit_once(':')
                .ok_or_else(|| wrong(flag, text, "write DEVICE:VALUE"))?;
            let limit = limits.entry(device.to_owned()).or_default();
            set(limit, value).ok_or_else(|| wrong(flag, text, format!("`{value}` is no rate")))?;
        }
        Ok(())
    };
    each("--device-read-bps", &args.device_read_bps, &|limit, value| {
        limit.read = Some(Bytes(parse_size(value)?));
        Some(())
    })?;
    each("--device-write-bps", &args.device_write_bps, &|limit, value| {
        limit.write = Some(Bytes(parse_size(value)?));
        Some(())
    })?;
    each("--device-read-iops", &args.device_read_iops, &|limit, value| {
        limit.read_iops = Some(value.parse().ok()?);
        Some(())
    })?;
    each("--device-write-iops", &args.device_write_iops, &|limit, value| {
        limit.write_iops = Some(value.parse().ok()?);
        Some(())
    })?;
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_their_usual_value() {
        for (shares, want) in [(1024, 100), (2, 1), (262_144, 10_000), (0, 1), (512, 59)] {
            assert_eq!(weight(shares), want, "{shares}");
        }
    }
}
