//! The runtime specification 1.2, case by case, on any runtime that has runc's command line.
//!
//! The same cases run on Debian's crun and runc, which test the suite, and on dunlin. Where a runtime differs and may,
//! `accepted` says so; a difference that is not listed fails, and so does a listed one that no longer shows.
//!
//! `DUNLIN_CONFORMANCE=mounts cargo test --test it -- conformance::runc --nocapture` runs the cases whose names contain
//! the word.

mod accepted;
mod case;
mod cgroups;
mod devices;
mod errors;
mod exec;
mod hooks;
mod identity;
mod lifecycle;
mod mounts;
mod namespaces;
mod newer;
mod process;
mod propagation;
mod scene;
mod seccomp;
mod seen;
mod terminal;
mod verbs;

use crate::fixture::cmd::{Cmd, dunlin};
use crate::skip;
use accepted::ACCEPTED;
use case::{Case, Check};
use scene::Runtime;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

/// Fewer assertions than this on one runtime are a failure.
const AT_LEAST: usize = 200;

/// Everything that is asserted, by topic.
const TOPICS: [&[Case]; 15] = [
    lifecycle::CASES,
    verbs::CASES,
    errors::CASES,
    process::CASES,
    identity::CASES,
    terminal::CASES,
    exec::CASES,
    namespaces::CASES,
    mounts::CASES,
    propagation::CASES,
    devices::CASES,
    seccomp::CASES,
    hooks::CASES,
    cgroups::CASES,
    newer::CASES,
];

/// The runtimes: name, and program with the arguments that come before runc's.
fn runtimes() -> [(&'static str, Vec<OsString>); 3] {
    [
        ("crun", without_unified("/usr/bin/crun")),
        ("runc", vec!["/usr/sbin/runc".into()]),
        ("dunlin", vec![dunlin().into(), "runtime".into()]),
    ]
}

#[test]
fn crun_conforms_with_known_differences() {
    conforms("crun");
}

#[test]
fn runc_conforms_with_known_differences() {
    conforms("runc");
}

#[test]
fn dunlin_conforms() {
    conforms("dunlin");
}

/// crun refuses a machine that has cgroup v1 and v2 side by side; it gets a view without v2.
fn without_unified(program: &str) -> Vec<OsString> {
    let script = "mount -t tmpfs tmpfs /sys/fs/cgroup/unified && exec \"$@\"";
    let hidden = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh"];
    let both = Path::new("/sys/fs/cgroup/unified").is_dir();
    let line = hidden.iter().filter(|_| both).copied().chain([program]);
    line.map(OsString::from).collect()
}

fn conforms(name: &str) {
    let (name, line) = runtimes()
        .into_iter()
        .find(|(known, _)| *known == name)
        .expect("in the table");
    if dunlin::sys::creds::effective_ids().0 != 0 {
        skip!("{name}: these cases need root");
    }
    if !has_command_line(&line) {
        skip!("{name}: `{:?} --help` fails: no such runtime here", line.last());
    }
    let runtime = Runtime { name, line };
    let wanted = std::env::var("DUNLIN_CONFORMANCE").unwrap_or_default();
    let cases: Vec<&Case> = TOPICS.iter().flat_map(|topic| topic.iter()).collect();
    let chosen: Vec<&Case> = cases.into_iter().filter(|case| case.name.contains(&wanted)).collect();
    let mut made = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in &chosen {
        for check in case.run(&runtime) {
            let full = format!("{}: {}", case.name, check.name);
            if made.insert(full.clone(), check).is_some() {
                wrong.push(format!("`{full}` is asserted twice"));
            }
        }
    }
    wrong.extend(judge(name, &chosen, &made));
    println!("{name}: {} assertions in {} cases", made.len(), chosen.len());
    assert!(
        wrong.is_empty(),
        "{name}, {} assertions:\n{}",
        made.len(),
        wrong.join("\n")
    );
    assert!(
        !wanted.is_empty() || made.len() >= AT_LEAST,
        "{name}: only {} assertions",
        made.len()
    );
}

/// What is wrong after the accepted differences are taken away.
fn judge(runtime: &str, chosen: &[&Case], made: &BTreeMap<String, Check>) -> Vec<String> {
    let names: BTreeSet<&str> = chosen.iter().map(|case| case.name).collect();
    let mut wrong = Vec::new();
    let mut accepted = BTreeSet::new();
    for (_, assertion, reason) in ACCEPTED.iter().filter(|(who, ..)| *who == runtime) {
        let case = assertion.split(": ").next().unwrap_or_default();
        assert!(
            !reason.is_empty() && accepted.insert(*assertion),
            "{runtime}: `{assertion}` is listed once, with its reason"
        );
        if !names.contains(case) {
            continue;
        }
        match made.get(*assertion) {
            None => wrong.push(format!("`{assertion}`: listed as a difference and never asserted")),
            Some(check) if check.failure.is_none() => {
                wrong.push(format!("`{assertion}`: listed as a difference, and is none"))
            }
            Some(_) => {}
        }
    }
    for (full, check) in made {
        if let Some(failure) = check.failure.as_ref().filter(|_| !accepted.contains(full.as_str())) {
            wrong.push(format!("`{full}`: {failure}"));
        }
    }
    wrong
}

/// Whether the program is there and takes a runtime's arguments.
fn has_command_line(line: &[OsString]) -> bool {
    let program = Path::new(&line[0]);
    let missing = program.is_absolute() && !program.exists();
    !missing && Cmd::new(program).args(&line[1..]).arg("--help").run().code == 0
}

#[test]
fn accepted_differences_name_known_runtimes_and_cases() {
    let names: BTreeSet<&str> = TOPICS
        .iter()
        .flat_map(|topic| topic.iter())
        .map(|case| case.name)
        .collect();
    let count = TOPICS.iter().map(|topic| topic.len()).sum::<usize>();
    assert_eq!(names.len(), count, "each case has a name of its own");
    for (runtime, assertion, _) in ACCEPTED {
        assert!(["crun", "runc", "dunlin"].contains(runtime), "{runtime}");
        let case = assertion.split(": ").next().unwrap_or_default();
        assert!(names.contains(case), "`{assertion}`: no such case");
    }
}

/// The judgement itself: without differences, with an unlisted one, and with listed ones that do not show.
#[test]
fn differences_are_listed_or_fail() {
    let (_, assertion, _) = ACCEPTED
        .iter()
        .find(|(who, ..)| *who == "runc")
        .expect("has differences");
    let (name, check) = assertion.split_once(": ").unwrap();
    let case = TOPICS
        .iter()
        .flat_map(|topic| topic.iter())
        .find(|case| case.name == name)
        .unwrap();
    let made = |failure: Option<&str>, more: Option<&str>| {
        let entry = |name: &str, failure: Option<&str>| {
            let check = Check {
                name: name.to_owned(),
                failure: failure.map(str::to_owned),
            };
            (format!("{}: {name}", case.name), check)
        };
        let mut checks = BTreeMap::from([entry("another", more)]);
        let listed = ACCEPTED
            .iter()
            .filter(|(who, full, _)| *who == "runc" && full.starts_with(&format!("{name}: ")));
        checks.extend(listed.map(|(_, full, _)| entry(&full[name.len() + 2..], Some("differs"))));
        checks.extend([entry(check, failure)]);
        judge("runc", &[case], &checks)
    };
    assert_eq!(made(Some("differs"), None), Vec::<String>::new());
    assert_eq!(
        made(None, None),
        [format!("`{assertion}`: listed as a difference, and is none")]
    );
    assert_eq!(
        made(Some("differs"), Some("wrong")),
        [format!("`{name}: another`: wrong")]
    );
    let nothing = judge("runc", &[case], &BTreeMap::new());
    assert!(
        nothing.contains(&format!("`{assertion}`: listed as a difference and never asserted")),
        "{nothing:?}"
    );
}
