//! Attacks on the host, on the runtime and on other containers, each tried against the real binary.
//!
//! | attack | tried in |
//! |---|---|
//! | overwriting the host's binary through `/proc/self/exe`, `#!` and `/proc/PID/exe` (CVE-2019-5736) | `binary` |
//! | inherited descriptors and working directories (CVE-2024-21626) | `descriptors`; descriptors that are asked for: `runtime_cli` |
//! | links in destinations (CVE-2021-30465) | `targets`; where they lead inside: `conformance::mounts` |
//! | `/dev/null`, `/dev/console`, `/dev/pts` as links (CVE-2025-31133, CVE-2025-52565) | `targets` |
//! | procfs replaced, writes to it led elsewhere (CVE-2019-16884, CVE-2025-52881) | `procfs` |
//! | escape through control groups (CVE-2022-0492), core patterns and sysctls | `procfs` |
//! | inherited capabilities (CVE-2022-24769), dropped groups (CVE-2018-7169) | `identity`; the five sets: `conformance::identity` |
//! | looking into a process that joins (CVE-2016-9962), hostile files, ends and numbers | `joining` |
//! | hostile receivers of terminals | `joining` |
//! | names of containers that lead elsewhere | `runtime::oci::state`, `conformance::errors` |

mod binary;
mod descriptors;
mod helpers;
mod identity;
mod joining;
mod procfs;
mod targets;

use crate::fixture::user::User;
use crate::runtime_cli::bundle::Bundle;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Until a container's script has done what it does at once.
const WAIT: Duration = Duration::from_secs(30);

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A bundle of root's without a user namespace, and one of an ordinary user's with one id; or why there is none.
fn bundles(topic: &str) -> Vec<Result<Bundle, String>> {
    if !is_root() {
        return vec![Err("needs root".to_owned())];
    }
    let user = User::without_ranges().map(|user| Bundle::of_user(topic, user));
    vec![Ok(Bundle::of_root(topic)), user]
}

/// Waits until something holds.
fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the kernel runs when a program crashes: root's own commands, from wherever they are. An attack that succeeds here
/// is undone at the end.
struct CorePattern(Vec<u8>);

impl CorePattern {
    const PATH: &str = "/proc/sys/kernel/core_pattern";

    fn watch() -> CorePattern {
        CorePattern(fs::read(Self::PATH).unwrap())
    }

    fn assert_untouched(&self, what: &str) {
        assert!(
            fs::read(Self::PATH).unwrap() == self.0,
            "the core pattern is another: {what}"
        );
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        if fs::read(Self::PATH).is_ok_and(|now| now != self.0) {
            let _ = fs::write(Self::PATH, &self.0);
        }
    }
}

/// Text of a file; empty where there is none.
fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How many lines of a file are this one.
fn count(path: &Path, line: &str) -> usize {
    text(path).lines().filter(|found| *found == line).count()
}
