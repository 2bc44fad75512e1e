//! Children that ended: which of them nobody asks for, and the status of those that are asked for later.
//!
//! A process in the container is made by a starter as the monitor's child. It may end, and be waited for, before the starter's report has
//! said that it is there; its status is kept until then. The starters themselves are nobody's matter.

use std::os::fd::BorrowedFd;

use crate::sys::process::{self, Ended};
use crate::types::bounds::EXECS;

/// Starters that were not waited for yet: those at work, and those that were told to go.
const STARTERS: usize = 2 * EXECS;
/// Processes that ended unreported: one of each starter at work, and those whose starters failed.
const STRAYS: usize = EXECS + 8;

/// The exit code of a process of which nobody knows it.
const LOST: i32 = 255;

/// What is known of children.
#[derive(Debug, Default)]
pub struct Children {
    starters: heapless::Deque<i32, STARTERS>,
    strays: heapless::Deque<(i32, Ended), STRAYS>,
}

impl Children {
    /// A starter was made.
    pub fn starter(&mut self, pid: i32) {
        if self.starters.is_full() {
            // It hangs where no signal reaches it.
            self.starters.pop_front();
        }
        // There is room now.
        let _ = self.starters.push_back(pid);
    }

    /// A child ended that is no process which is known to run.
    pub fn ended(&mut self, pid: i32, ended: Ended) {
        let before = self.starters.len();
        self.starters.retain(|starter| *starter != pid);
        if self.starters.len() < before {
            return;
        }
        if self.strays.is_full() {
            self.strays.pop_front();
        }
        // There is room now.
        let _ = self.strays.push_back((pid, ended));
    }

    /// How the child ended that is only reported now.
    fn claim(&mut self, pid: i32) -> Option<Ended> {
        let found = self.strays.iter().find(|(stray, _)| *stray == pid)?.1;
        self.strays.retain(|(stray, _)| *stray != pid);
        Some(found)
    }

    /// How this child ended, if it has; it was just reported.
    pub fn ended_already(&mut self, pid: i32, pidfd: BorrowedFd<'_>) -> Option<Ended> {
        match process::try_wait(pidfd) {
            Ok(ended) => ended,
            // Somebody has waited for it, and that can only have been us.
            Err(error) => self.claim(pid).or_else(|| {
                crate::warn!("process {pid} ended, and how is not known: {error}");
                Some(Ended::Code(LOST))
            }),
        }
    }

    /// Nobody is at work who could report another one.
    pub fn forget(&mut self) {
        self.strays.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_kept_until_its_process_is_reported_whatever_else_ends() {
        let mut children = Children::default();
        children.starter(10);
        children.ended(11, Ended::Code(7));
        // Meanwhile others come and go.
        for pid in 1000..2000 {
            children.starter(pid);
            children.ended(pid + 5000, Ended::Code(0));
            assert_eq!(children.claim(pid + 5000), Some(Ended::Code(0)));
            children.ended(pid, Ended::Signal(9));
        }
        assert_eq!(children.claim(11), Some(Ended::Code(7)));
        assert_eq!(children.claim(11), None, "numbers are used again");
        children.ended(10, Ended::Code(0));
        assert_eq!(children.claim(10), None, "a starter is nobody's process");
    }

    #[test]
    fn what_nobody_claims_takes_no_more_room_than_there_is() {
        let mut children = Children::default();
        for pid in 0..500 {
            children.starter(pid);
            children.ended(pid + 1000, Ended::Code(0));
        }
        assert_eq!(children.claim(1000), None);
        assert_eq!(children.claim(1499), Some(Ended::Code(0)));
        children.forget();
        assert_eq!(children.claim(1498), None);
    }
}
