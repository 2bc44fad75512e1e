//! fleet watch, fleet guard: rollouts followed, and halted when too many devices fail.

use super::super::super::{failure::say, table};
use super::{Call, Failure, print, span};
use crate::fleet::follow::{Follower, Picture};
use crate::fleet::judge::Tally;
use crate::sys::tty;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;

/// Cells of a bar.
const BAR: usize = 40;
/// Silence of a device that counts as failure, milliseconds.
const DEADLINE_MS: u64 = 30 * 60_000;

/// `fleet watch`.
pub fn watch(call: &Call) -> Result<u8, Failure> {
    let operator = call.operator()?;
    let target = call.target()?;
    let deadline = span(call.args, "deadline", DEADLINE_MS)?;
    let link = call.link(&operator)?;
    let mut follower = Follower::new(&operator, link, target.clone(), &call.exact, deadline, call.timeout)?;
    let terminal = tty::is_terminal(io::stdout().as_fd());
    let (mut before, mut drawn) = (String::new(), 0);
    loop {
        let picture = match before.is_empty() {
            true => follower.picture()?,
            false => follower.look()?,
        };
        let text = match &picture {
            None => format!("{}: nothing is rolled out\n", target.audience()),
            Some(picture) if terminal => bars(picture),
            Some(picture) => line(picture),
        };
        if text != before {
            // The bars before are drawn over.
            let up = if drawn > 0 {
                format!("\x1b[{drawn}A\x1b[J")
            } else {
                String::new()
            };
            print(&(up + &text))?;
            drawn = if terminal { text.lines().count() } else { 0 };
            before = text;
        }
        let Some(Picture { document, tally, .. }) = picture.filter(|_| call.args.has("wait")) else {
            continue;
        };
        let halted = document.rollout.is_some_and(|rollout| rollout.halted);
        if tally.is_over() || halted && tally.going == 0 {
            follower.close();
            return Ok(u8::from(tally.committed < tally.participants));
        }
    }
}

fn counts(counts: &BTreeMap<String, usize>) -> String {
    let words: Vec<String> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
    words.join(", ")
}

fn head(picture: &Picture) -> String {
    let Picture { document, tally, .. } = picture;
    let mut text = format!("{} generation {}", document.audience, document.generation);
    if let Some(rollout) = &document.rollout {
        text += &format!(", {} %", rollout.percent);
        if rollout.halted {
            text += ", halted";
        }
    }
    format!("{text}: {} of {} devices take part", tally.participants, tally.devices)
}

fn ends(tally: &Tally) -> String {
    let mut text = format!("{} committed, {} failed", tally.committed, tally.failed);
    if tally.failed > 0 {
        text += &format!(" ({})", counts(&tally.reasons));
    }
    text += &format!(", {} going", tally.going);
    if !tally.waits.is_empty() {
        text += &format!(", waiting: {}", counts(&tally.waits));
    }
    text
}

/// One line, for files and pipes.
fn line(picture: &Picture) -> String {
    let text = format!("{}; {}", head(picture), ends(&picture.tally));
    table::printable(&text) + "\n"
}

/// A bar per wave, for terminals.
fn bars(picture: &Picture) -> String {
    let mut lines = vec![head(picture)];
    for (wave, [all, committed, failed]) in &picture.tally.waves {
        let cells = |count: usize| (count * BAR).div_ceil((*all).max(1));
        let good = cells(*committed).min(BAR);
        let bad = cells(*failed).min(BAR - good);
        lines.push(format!(
            "{wave:>10} [{}{}{}] {committed} of {all}, {failed} failed",
            "#".repeat(good),
            "!".repeat(bad),
            ".".repeat(BAR - good - bad)
        ));
    }
    lines.push(ends(&picture.tally));
    let lines: Vec<String> = lines.iter().map(|line| table::printable(line)).collect();
    lines.join("\n") + "\n"
}

/// `fleet guard`.
pub fn guard(call: &Call) -> Result<u8, Failure> {
    let operator = call.operator()?;
    let target = call.target()?;
    let deadline = span(call.args, "deadline", DEADLINE_MS)?;
    let link = call.link(&operator)?;
    let mut follower = Follower::new(&operator, link, target.clone(), &call.exact, deadline, call.timeout)?;
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    say(&format!("guards {}", target.audience()));
    loop {
        let Some(picture) = follower.look()?.filter(|picture| picture.bad) else {
            continue;
        };
        let text = format!("{}; {}", head(&picture), ends(&picture.tally));
        let published = follower.halt()?;
        let text = format!("halted with generation {}: {text}", published.generation);
        print(&(table::printable(&text) + "\n"))?;
    }
}
