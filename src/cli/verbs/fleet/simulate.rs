//! fleet simulate: many devices in one process.

use super::{Call, Failure, print, span};
use crate::fleet::simulate::{self, Mix};

/// `fleet simulate`; ends when it is ended.
pub fn simulate(call: &Call) -> Result<u8, Failure> {
    let number = |name: &str, usual: f64| match call.args.one(name) {
        None => Ok(usual),
        Some(text) => {
            let number = text.trim_end_matches('%').parse::<f64>().ok().filter(|n| *n >= 0.0);
            number.ok_or_else(|| Failure::new(format!("--{name} `{text}` is no number")))
        }
    };
    let mix = Mix {
        count: number("count", 100.0)? as usize,
        group: call.args.one("group").unwrap_or("sim").into(),
        fail: number("fail", 0.0)? / 100.0,
        silent: number("silent", 0.0)? / 100.0,
        slow: number("slow", 0.0)? / 100.0,
        step: span(call.args, "step", 1000)?,
        bad: call.args.one("bad").unwrap_or_default().into(),
        rate: number("rate", 200.0)? as u64,
    };
    let operator = call.operator()?;
    let mut heard = Ok(());
    let told = simulate::run(&operator, &mix, &mut |line| {
        if heard.is_ok() {
            heard = print(&format!("{line}\n"));
        }
    });
    heard?;
    told?;
    Ok(0)
}
