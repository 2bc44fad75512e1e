//! Whether this device is the only one of its name: what the broker says of its presence, judged.

use std::collections::VecDeque;

use crate::types::document::Presence;
use crate::types::read;
use crate::types::time::Mono;

/// Take-overs within this time make a duplicate, milliseconds.
const WINDOW_MS: u64 = 600_000;
/// So many take-overs make a duplicate of the agent with the smaller session.
const TAKE_OVERS: usize = 2;
/// And so many of the other one: of two, one stays.
const TAKE_OVERS_LARGER: usize = 5;
/// How long a device with a double stays away, milliseconds.
pub const AWAY_MS: u64 = 300_000;

/// What to do about a presence that arrived on the device's own topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is ours, or nobody's.
    Nothing,
    /// A will of an old session or another device overwrote it: publish again.
    Again,
    /// Another device uses the name: report `duplicate_identity` and stay away for a while.
    Duplicate,
}

/// Judges presences.
#[derive(Debug, Default)]
pub struct Watch {
    take_overs: VecDeque<Mono>,
}

impl Watch {
    /// Judges one message; `ours` is what this agent published, `sessions` are those of this device's agents: what an
    /// earlier one said may still arrive.
    pub fn judge(&mut self, message: &[u8], ours: &Presence, sessions: &[String], now: Mono) -> Verdict {
        let Ok(theirs) = read::json::<Presence>(message) else {
            // Empty or rubbish: whatever overwrote ours, ours must stand there.
            return Verdict::Again;
        };
        if theirs == *ours {
            return Verdict::Nothing;
        }
        // A will, or an older agent of the same device, is no other device.
        if !theirs.up || sessions.contains(&theirs.session) || theirs.boot < ours.boot {
            return Verdict::Again;
        }
        while self.take_overs.front().is_some_and(|at| now.since(*at) > WINDOW_MS) {
            self.take_overs.pop_front();
        }
        self.take_overs.push_back(now);
        let enough = if ours.session < theirs.session {
            TAKE_OVERS
        } else {
            TAKE_OVERS_LARGER
        };
        if self.take_overs.len() >= enough {
            self.take_overs.clear();
            return Verdict::Duplicate;
        }
        Verdict::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(up: bool, boot: u64, session: &str) -> Presence {
        Presence {
            up,
            boot,
            session: session.into(),
            agent: "0.1.0".into(),
        }
    }

    fn json(p: &Presence) -> Vec<u8> {
        serde_json::to_vec(p).unwrap()
    }

    #[test]
    fn wills_are_overwritten_and_doubles_are_noticed() {
        let ours = presence(true, 5, "a");
        let sessions = ["before".to_owned(), "a".to_owned()];
        let mut watch = Watch::default();
        for (theirs, at, expected) in [
            (presence(true, 5, "a"), 0, Verdict::Nothing),
            (presence(false, 5, "a"), 1, Verdict::Again),
            (presence(false, 4, "z"), 2, Verdict::Again),
            (presence(true, 4, "z"), 3, Verdict::Again),
            (presence(true, 5, "before"), 3, Verdict::Again),
            (presence(true, 5, "before"), 3, Verdict::Again),
            (presence(true, 5, "b"), 4, Verdict::Again),
            (presence(true, 9, "b"), 700_000, Verdict::Again),
            (presence(true, 9, "b"), 800_000, Verdict::Duplicate),
            (presence(true, 9, "b"), 800_001, Verdict::Again),
        ] {
            assert_eq!(
                watch.judge(&json(&theirs), &ours, &sessions, Mono(at)),
                expected,
                "{theirs:?} at {at}"
            );
        }
        assert_eq!(watch.judge(b"", &ours, &sessions, Mono(0)), Verdict::Again);
        // Of two that take the name from each other, one has had enough before the other.
        let (mut smaller, mut larger) = (Watch::default(), Watch::default());
        let (a, b) = (presence(true, 5, "a"), presence(true, 5, "b"));
        let verdicts: Vec<_> = (0..2)
            .map(|at| {
                let of_b = larger.judge(&json(&a), &b, &[], Mono(at));
                (smaller.judge(&json(&b), &a, &[], Mono(at)), of_b)
            })
            .collect();
        assert_eq!(
            verdicts,
            [(Verdict::Again, Verdict::Again), (Verdict::Duplicate, Verdict::Again)]
        );
    }
}
