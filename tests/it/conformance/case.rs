//! A case: a bundle, what is done with it, and what must be seen; and the assertions that it made.

use super::scene::{Runtime, Scene};
use super::seen::Seen;
use crate::fixture::cmd::Out;
use serde_json::Value;
use std::cell::RefCell;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// One entry of the suite's table.
pub struct Case {
    pub name: &'static str,
    act: Act,
}

enum Act {
    Probe {
        change: fn(&mut Value, &Path),
        script: &'static str,
        check: fn(&Seen, &Checks),
    },
    Scene(fn(&mut Scene<'_>, &Checks)),
}

/// A container that runs `script` once. `change` gets config.json and the bundle's folder, where it may make files;
/// `check` sees what the script printed.
pub const fn probe(
    name: &'static str,
    change: fn(&mut Value, &Path),
    script: &'static str,
    check: fn(&Seen, &Checks),
) -> Case {
    let act = Act::Probe { change, script, check };
    Case { name, act }
}

/// Anything else that can be done with a runtime and a bundle.
pub const fn scene(name: &'static str, act: fn(&mut Scene<'_>, &Checks)) -> Case {
    let act = Act::Scene(act);
    Case { name, act }
}

/// One assertion.
pub struct Check {
    pub name: String,
    /// What was wrong; nothing when it held.
    pub failure: Option<String>,
}

/// The assertions of a running case.
#[derive(Default)]
pub struct Checks(RefCell<Vec<Check>>);

impl Case {
    /// Runs the case, and cleans up. A panic, such as a container that does not start, fails the assertion `runs`.
    pub fn run(&self, runtime: &Runtime) -> Vec<Check> {
        let checks = Checks::default();
        let whole = catch_unwind(AssertUnwindSafe(|| {
            let mut scene = Scene::new(runtime);
            match self.act {
                Act::Probe { change, script, check } => {
                    let folder = scene.folder().to_owned();
                    change(&mut scene.config, &folder);
                    let out = scene.run(script);
                    assert_eq!(out.code, 0, "stdout: {}\nstderr: {}", out.stdout, out.stderr);
                    check(&Seen::new(&out.stdout), &checks);
                }
                Act::Scene(act) => act(&mut scene, &checks),
            }
            scene.end();
        }));
        let text = whole.err().map(|panic| match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(other) => other.downcast_ref::<&str>().unwrap_or(&"a panic").to_string(),
        });
        checks.add("runs", text);
        checks.0.into_inner()
    }
}

impl Checks {
    fn add(&self, name: &str, failure: Option<String>) {
        let name = name.to_owned();
        self.0.borrow_mut().push(Check { name, failure });
    }

    /// Asserts that two values are the same.
    pub fn is<A: Debug + PartialEq<B>, B: Debug>(&self, name: &str, actual: A, expected: B) {
        let same = actual == expected;
        self.add(name, (!same).then(|| format!("{actual:?}, and not {expected:?}")));
    }

    /// Asserts that something holds; `seen` is for the message.
    pub fn holds(&self, name: &str, ok: bool, seen: impl Debug) {
        self.add(name, (!ok).then(|| format!("does not hold: {seen:?}")));
    }

    /// Asserts that a text contains another.
    pub fn has(&self, name: &str, text: &str, part: &str) {
        self.add(
            name,
            (!text.contains(part)).then(|| format!("{text:?} does not contain {part:?}")),
        );
    }

    /// Asserts that a command ended with 0.
    pub fn works(&self, name: &str, out: &Out) {
        self.add(
            name,
            (out.code != 0).then(|| format!("exit code {}: {}{}", out.code, out.stdout, out.stderr)),
        );
    }

    /// Asserts that a command ended with an error: a code that is neither 0 nor a signal's, and words for it.
    pub fn fails(&self, name: &str, out: &Out) {
        let refused = (out.code < 129 || out.code > 249) && out.code != 0 && !out.stderr.trim().is_empty();
        self.add(
            name,
            (!refused).then(|| format!("no error: exit code {}: {}{}", out.code, out.stdout, out.stderr)),
        );
    }
}
