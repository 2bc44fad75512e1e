//! Kill points: places at which a test lets the process die, as a power cut or a kill would.
//!
//! `DUNLIN_KILL_POINT=NAME` lets the agent end itself with SIGKILL when it reaches the point `NAME`; `NAME:N` at the N-th time
//! (1 is the first). With `@stop` at the end it stops itself (SIGSTOP) there instead, and goes on when it is continued, so that others
//! can be killed meanwhile. Only the agent honours it, and only when it is set as it starts. Names are those of [`POINTS`]: every write
//! of the journal and of the records beside it, in each state, before, in the middle of and after it reaches the disk, and every
//! effect on containers before and after it.

use std::os::fd::AsFd as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The environment variable that names the point.
pub const VARIABLE: &str = "DUNLIN_KILL_POINT";

/// Every point.
pub const POINTS: &[&str] = &[
    // The journal, by the state that is written.
    "journal-accepted-before",
    "journal-accepted-half",
    "journal-accepted-after",
    "journal-waiting-before",
    "journal-waiting-half",
    "journal-waiting-after",
    "journal-fetching-before",
    "journal-fetching-half",
    "journal-fetching-after",
    "journal-verifying-before",
    "journal-verifying-half",
    "journal-verifying-after",
    "journal-staged-before",
    "journal-staged-half",
    "journal-staged-after",
    "journal-switching-before",
    "journal-switching-half",
    "journal-switching-after",
    "journal-probing-before",
    "journal-probing-half",
    "journal-probing-after",
    "journal-soaking-before",
    "journal-soaking-half",
    "journal-soaking-after",
    "journal-save-before",
    "journal-save-half",
    "journal-save-after",
    "journal-checkpoint-before",
    "journal-checkpoint-half",
    "journal-checkpoint-after",
    "journal-rolling-back-before",
    "journal-rolling-back-half",
    "journal-rolling-back-after",
    "journal-final-before",
    "journal-final-half",
    "journal-final-after",
    "journal-boot-before",
    "journal-boot-half",
    "journal-boot-after",
    // Final records and quarantine.
    "history-final-before",
    "history-final-half",
    "history-final-after",
    "history-quarantine-before",
    "history-quarantine-half",
    "history-quarantine-after",
    // The set to come, and its taking the committed one's place.
    "set-next-before",
    "set-next-after",
    "set-commit-before",
    "set-commit-after",
    "set-drop-before",
    "set-drop-after",
    // Effects.
    "fetch-before",
    "fetch-after",
    "create-before",
    "create-after",
    "stop-before",
    "stop-after",
    "save-before",
    "save-after",
    "restore-before",
    "restore-after",
    "forget-before",
    "rename-away-before",
    "rename-away-after",
    "rename-in-before",
    "rename-in-after",
    "start-before",
    "start-after",
    "remove-before",
    "remove-after",
];

/// The point to die at.
struct Armed {
    name: String,
    left: AtomicU32,
    signal: i32,
}

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;

static ARMED: OnceLock<Armed> = OnceLock::new();

/// A value of the variable that names no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{VARIABLE}={0}`: no such kill point; write `NAME`, `NAME:N` or `NAME@stop`, the names are in `deploy::kill::POINTS`"
)]
pub struct UnknownPoint(String);

/// Arms the point that `value` names. Called once by the agent as it starts, with the variable's value.
pub fn arm(value: &str) -> Result<(), UnknownPoint> {
    let (name, count, signal) = parse(value).ok_or_else(|| UnknownPoint(value.chars().take(80).collect()))?;
    let _ = ARMED.set(Armed {
        name: name.to_owned(),
        left: AtomicU32::new(count),
        signal,
    });
    Ok(())
}

fn parse(value: &str) -> Option<(&str, u32, i32)> {
    let (value, signal) = match value.strip_suffix("@stop") {
        Some(value) => (value, SIGSTOP),
        None => (value, SIGKILL),
    };
    let (name, count) = match value.split_once(':') {
        Some((name, count)) => (name, count.parse().ok().filter(|n| *n > 0)?),
        None => (value, 1),
    };
    POINTS.contains(&name).then_some((name, count, signal))
}

/// Whether any point is armed: writes are then done in two halves, so that dying between them can be tried.
pub fn armed() -> bool {
    #[cfg(test)]
    if rehearsal::active() {
        return true;
    }
    ARMED.get().is_some()
}

/// Dies or stops here when this is the armed point; else nothing.
pub fn point(name: &str) {
    debug_assert!(POINTS.contains(&name), "kill point `{name}` is not in the list");
    #[cfg(test)]
    rehearsal::reached(name);
    if let Some(armed) = ARMED.get()
        && armed.name == name
        && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        signal_self(armed.signal);
    }
}

/// Sends this process a signal. With SIGKILL no destructor and no buffer runs.
fn signal_self(signal: i32) {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let sent =
        crate::sys::process::pidfd_open(own).and_then(|own| crate::sys::process::send_signal(own.as_fd(), signal));
    if sent.is_err() || signal == SIGKILL {
        // The signal is on its way; nothing more may happen here.
        std::process::abort();
    }
}

/// Dying inside a test's own thread: the point unwinds with [`rehearsal::Died`] instead of ending the process.
#[cfg(test)]
pub mod rehearsal {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// What a point unwinds with.
    pub struct Died;

    #[derive(Default)]
    struct Plan {
        at: Option<(String, u32)>,
        reached: BTreeMap<String, u32>,
    }

    thread_local! {
        static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    }

    /// Begins a rehearsal in this thread that dies at the `n`-th time (1 is the first) at `point`; never when `None`.
    pub fn begin(at: Option<(&str, u32)>) {
        PLAN.with_borrow_mut(|plan| {
            *plan = Some(Plan {
                at: at.map(|(name, n)| (name.to_owned(), n)),
                reached: BTreeMap::new(),
            })
        });
    }

    /// Ends it; how often each point was reached.
    pub fn end() -> BTreeMap<String, u32> {
        PLAN.with_borrow_mut(|plan| plan.take().map(|plan| plan.reached).unwrap_or_default())
    }

    pub(super) fn active() -> bool {
        PLAN.with_borrow(Option::is_some)
    }

    pub(super) fn reached(name: &str) {
        let dies = PLAN.with_borrow_mut(|plan| {
            let Some(plan) = plan else { return false };
            let count = plan.reached.entry(name.to_owned()).or_default();
            *count += 1;
            plan.at.as_ref().is_some_and(|(at, n)| at == name && n == count)
        });
        if dies {
            std::panic::resume_unwind(Box::new(Died));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_points_are_taken() {
        assert_eq!(parse("start-before"), Some(("start-before", 1, SIGKILL)));
        assert_eq!(parse("start-before:3"), Some(("start-before", 3, SIGKILL)));
        assert_eq!(parse("start-before:3@stop"), Some(("start-before", 3, SIGSTOP)));
        for bad in [
            "",
            "start",
            "start-before:",
            "start-before:0",
            "start-before:x",
            "start-before:1:2",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert!(POINTS.len() >= 50);
        assert_eq!(
            POINTS.iter().collect::<std::collections::BTreeSet<_>>().len(),
            POINTS.len()
        );
    }
}
