//! The limits that `update` names.

use std::io::Read as _;

use super::Failure;
use super::args::UpdateArgs;
use crate::types::bounds::BUNDLE_BYTES;
use crate::types::oci::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use crate::types::read;

/// From the file, or from the options.
pub fn resources(args: &UpdateArgs) -> Result<LinuxResources, Failure> {
    if let Some(path) = &args.resources {
        let mut text = Vec::new();
        if path.as_os_str() == "-" {
            std::io::stdin().lock().take(BUNDLE_BYTES).read_to_end(&mut text)?;
        } else {
            let fail = |e| Failure::new(format!("open `{}`: {e}", path.display()));
            let file = std::fs::File::open(path).map_err(fail)?;
            file.take(BUNDLE_BYTES).read_to_end(&mut text)?;
        }
        return read::json(&text).map_err(|error| Failure::new(format!("`{}`: {error}", path.display())));
    }
    let size = |option: &str, text: &Option<String>| {
        text.as_deref()
            .map(|text| bytes(text).ok_or_else(|| Failure::new(format!("--{option} `{text}` is no number of bytes"))))
            .transpose()
    };
    Ok(LinuxResources {
        memory: Some(LinuxMemory {
            limit: size("memory", &args.memory)?,
            reservation: size("memory-reservation", &args.memory_reservation)?,
            swap: size("memory-swap", &args.memory_swap)?,
            ..LinuxMemory::default()
        }),
        cpu: Some(LinuxCpu {
            shares: args.cpu_share,
            quota: args.cpu_quota,
            period: args.cpu_period,
            burst: args.cpu_burst,
            idle: args.cpu_idle,
            realtime_period: args.cpu_rt_period,
            realtime_runtime: args.cpu_rt_runtime,
            cpus: args.cpuset_cpus.clone(),
            mems: args.cpuset_mems.clone(),
        }),
        pids: args.pids_limit.map(|limit| LinuxPids { limit: Some(limit) }),
        block_io: args.blkio_weight.map(|weight| LinuxBlockIo {
            weight: Some(weight),
            ..LinuxBlockIo::default()
        }),
        ..LinuxResources::default()
    })
}

/// `512`, `512k`, `64M`, `2GB`, `-1`.
fn bytes(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let plain = lower.strip_suffix('b').unwrap_or(&lower);
    let plain = plain.strip_suffix('i').unwrap_or(plain);
    let (digits, factor) = match plain.chars().last()? {
        'k' => (&plain[..plain.len() - 1], 1 << 10),
        'm' => (&plain[..plain.len() - 1], 1 << 20),
        'g' => (&plain[..plain.len() - 1], 1 << 30),
        't' => (&plain[..plain.len() - 1], 1 << 40),
        _ => (plain, 1),
    };
    digits.parse::<i64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("512", Some(512)),
            ("-1", Some(-1)),
            ("1k", Some(1024)),
            ("64M", Some(64 << 20)),
            ("2GiB", Some(2 << 30)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
