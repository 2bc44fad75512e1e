//! Rows N7, N8 and N24, as whole command lines: `run --rm IMAGE true` against crun alone on a bundle, `exec CONTAINER true` and
//! `ps` with ten containers against podman, as root and as a user.

use std::time::Duration;

use super::fixture::user::User;
use super::side::Side;
use super::start::Bundle;
use super::table::{Figure, Table};
use super::{Scale, TEN, median, timed};

/// Measures as root and as a user.
pub fn rows(table: &mut Table, scale: &Scale) {
    let count = scale.of(20, 5);
    for (who, rootless) in [("root", false), ("rootless", true)] {
        let what_run = format!("`run --rm --network none IMAGE true`, {who}, whole command line");
        let what_exec = format!("`exec CONTAINER true`, {who}, whole command line");
        let what_ps = format!("`ps` with {TEN} containers, {who}, whole command line");
        match Side::new(rootless, "vfs") {
            Ok(side) => {
                table.row("N7", &what_run, "≤ 1.0 × crun on a bundle", runs(&side, count));
                table.row("N8", &what_exec, "≤ 1/20 podman, ≤ 6 ms", execs(&side, count));
                table.row("N24", &what_ps, "≤ 1/10 podman", lists(&side, count));
            }
            Err(reason) => {
                table.missing("N7", &what_run, &reason);
                table.missing("N8", &what_exec, &reason);
                table.missing("N24", &what_ps, &reason);
            }
        }
    }
}

fn runs(side: &Side, count: usize) -> Vec<Figure> {
    // The same kind of user, since the bundle keeps its own.
    let user = side.user.is_some().then(User::with_ranges).transpose();
    let bundle = user.and_then(Bundle::new);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 0..count {
        ours.extend(timed(side.dunlin(&[
            "run",
            "--rm",
            "--network",
            "none",
            &side.image,
            "true",
        ])));
        if let Ok(bundle) = &bundle {
            theirs.extend(bundle.run("crun", number));
        }
    }
    let ours = median(&mut ours).expect("dunlin's own must run");
    let mut figures = vec![Figure::time("", ours)];
    match median(&mut theirs) {
        Some(theirs) => figures.extend([
            Figure::time("crun on a bundle", theirs),
            Figure::ratio("ratio", ours, theirs),
        ]),
        None => figures.push(Figure::missing("crun", "does not run here")),
    }
    figures
}

/// One container of each runs after that.
fn execs(side: &Side, count: usize) -> Vec<Figure> {
    let mut podman = side.podman.clone();
    if podman.is_ok() {
        podman = started(side, "sleeps");
    }
    let ours = || timed(side.dunlin(&["exec", "sleeps", "true"]));
    against(count, ours, podman, || timed(side.podman(&["exec", "sleeps", "true"])))
}

fn lists(side: &Side, count: usize) -> Vec<Figure> {
    let mut podman = side.podman.clone();
    for number in 1..TEN {
        let name = format!("sleeps{number}");
        side.start(&name).ok();
        if podman.is_ok() {
            podman = started(side, &name);
        }
    }
    let ours = || timed(side.dunlin(&["ps"]));
    against(count, ours, podman, || timed(side.podman(&["ps"])))
}

fn started(side: &Side, name: &str) -> Result<(), String> {
    let out = side.podman_start(name, "busybox").run();
    match out.code {
        0 => Ok(()),
        _ => Err(out.stderr),
    }
}

/// Medians, and how many times ours podman's is.
fn against(
    count: usize,
    ours: impl Fn() -> Option<Duration>,
    podman: Result<(), String>,
    theirs: impl Fn() -> Option<Duration>,
) -> Vec<Figure> {
    let (mut all, mut others) = (Vec::new(), Vec::new());
    for number in 0..count {
        all.extend(ours());
        // It is slow, and its median does not wander.
        if podman.is_ok() && number < count.min(10) {
            others.extend(theirs());
        }
    }
    let ours = median(&mut all).expect("dunlin's own must run");
    let mut figures = vec![Figure::time("", ours)];
    match (podman, median(&mut others)) {
        (Ok(()), Some(theirs)) => {
            figures.extend([Figure::time("podman", theirs), Figure::ratio("podman is", theirs, ours)])
        }
        (Ok(()), None) => figures.push(Figure::missing("podman", "does not run here")),
        (Err(why), _) => figures.push(Figure::missing("podman", &why)),
    }
    figures
}
