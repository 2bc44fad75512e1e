//! Which signed documents are newly accepted: generation floors for each audience and kind, and time (PROTOCOL.md, "Numbers" and "Time").

use crate::types::bounds::{FLOORS, FUTURE_S};
use crate::types::deployment::Reason;
use crate::types::digest::Digest;
use crate::types::time::Unix;

/// The kinds of documents that are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// Keys.
    Keys,
    /// Assignment.
    Assign,
    /// Desired state.
    Desired,
    /// A secret.
    Secret,
}

/// The floors of every audience and kind; kept for good.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Floors {
    floors: Vec<Floor>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Floor {
    audience: String,
    kind: Kind,
    generation: u64,
    payload: Digest,
}

/// What numbers and times a document carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// `d/DEVICE`, `g/GROUP`, `*`.
    pub audience: &'a str,
    /// What it is.
    pub kind: Kind,
    /// Its number.
    pub generation: u64,
    /// Digest of the payload.
    pub payload: Digest,
    /// When it was signed.
    pub issued_at: Unix,
    /// Until when it may be newly accepted.
    pub expires_at: Unix,
}

/// What the device knows of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// The time that has certainly passed.
    pub floor: Unix,
    /// The time now, when the clock is synchronised.
    pub now: Option<Unix>,
}

impl Clock {
    /// The clock of a device: the floor is the latest of the build's time, the last accepted `issued_at` and the last synchronised
    /// time on disk; an unsynchronised clock never raises it.
    pub fn new(built: Unix, last_issued: Unix, last_synchronised: Unix, now: Option<Unix>) -> Clock {
        let floor = built
            .max(last_issued)
            .max(last_synchronised)
            .max(now.unwrap_or(Unix(0)));
        Clock { floor, now }
    }
}

/// The judgement over a document whose signatures hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Newly accepted: raise the floor and store it.
    Accept,
    /// Already accepted: nothing to do.
    Same,
    /// Refused: `conflict`, `stale`, `future`, `expired` or `busy`.
    Refuse(Reason),
}

impl Floors {
    /// The generation below which nothing of this audience and kind is accepted.
    pub fn generation(&self, audience: &str, kind: Kind) -> Option<u64> {
        self.find(audience, kind).map(|floor| floor.generation)
    }

    /// Judges a document. The number comes first: what was accepted before stays so though its time has passed.
    pub fn judge(&self, stamp: &Stamp, clock: &Clock) -> Verdict {
        match self.find(stamp.audience, stamp.kind) {
            Some(floor) if stamp.generation < floor.generation => return Verdict::Refuse(Reason::Stale),
            Some(floor) if stamp.generation == floor.generation && stamp.payload == floor.payload => {
                return Verdict::Same;
            }
            Some(floor) if stamp.generation == floor.generation => return Verdict::Refuse(Reason::Conflict),
            Some(_) => {}
            None if self.floors.len() >= FLOORS => return Verdict::Refuse(Reason::Busy),
            None => {}
        }
        let ahead = |now: Unix| stamp.issued_at.0 > now.0.saturating_add(FUTURE_S * 1000);
        if clock.now.is_some_and(ahead) {
            return Verdict::Refuse(Reason::Future);
        }
        if stamp.expires_at < clock.floor {
            return Verdict::Refuse(Reason::Expired);
        }
        Verdict::Accept
    }

    /// Raises the floor to an accepted document. Does not write to the disk.
    pub fn raise(&mut self, stamp: &Stamp) {
        let generation = stamp.generation;
        match self
            .floors
            .iter_mut()
            .find(|floor| floor.audience == stamp.audience && floor.kind == stamp.kind)
        {
            Some(floor) if generation >= floor.generation => {
                floor.generation = generation;
                floor.payload = stamp.payload;
            }
            Some(_) => {}
            None => self.floors.push(Floor {
                audience: stamp.audience.to_owned(),
                kind: stamp.kind,
                generation,
                payload: stamp.payload,
            }),
        }
    }

    fn find(&self, audience: &str, kind: Kind) -> Option<&Floor> {
        self.floors
            .iter()
            .find(|floor| floor.audience == audience && floor.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn stamp(generation: u64, payload: u8) -> Stamp<'static> {
        let (issued_at, expires_at) = (Unix(1_000 * DAY), Unix(1_090 * DAY));
        Stamp {
            audience: "g/line-3",
            kind: Kind::Desired,
            generation,
            payload: Digest::of(&[payload]),
            issued_at,
            expires_at,
        }
    }

    fn clock(floor_day: u64, now_day: Option<u64>) -> Clock {
        Clock {
            floor: Unix(floor_day * DAY),
            now: now_day.map(|day| Unix(day * DAY)),
        }
    }

    #[test]
    fn numbers_and_times_decide() {
        let mut floors = Floors::default();
        floors.raise(&stamp(10, 1));
        let now = clock(1_000, Some(1_000));
        type Row<'a> = (&'a str, Stamp<'static>, Clock, Verdict);
        let table: Vec<Row> = vec![
            ("newer", stamp(11, 2), now, Verdict::Accept),
            ("newer, same payload", stamp(11, 1), now, Verdict::Accept),
            ("the same again", stamp(10, 1), now, Verdict::Same),
            (
                "the same again though expired",
                stamp(10, 1),
                clock(2_000, Some(2_000)),
                Verdict::Same,
            ),
            (
                "same number, other content",
                stamp(10, 2),
                now,
                Verdict::Refuse(Reason::Conflict),
            ),
            ("older", stamp(9, 1), now, Verdict::Refuse(Reason::Stale)),
            (
                "a floor of another audience does not matter",
                Stamp {
                    audience: "d/gw",
                    ..stamp(1, 1)
                },
                now,
                Verdict::Accept,
            ),
            (
                "a floor of another kind does not matter",
                Stamp {
                    kind: Kind::Assign,
                    ..stamp(1, 1)
                },
                now,
                Verdict::Accept,
            ),
            ("a day ahead", stamp(11, 2), clock(999, Some(999)), Verdict::Accept),
            (
                "more than a day ahead",
                stamp(11, 2),
                clock(998, Some(998)),
                Verdict::Refuse(Reason::Future),
            ),
            (
                "ahead of an unsynchronised clock",
                stamp(11, 2),
                clock(1, None),
                Verdict::Accept,
            ),
            (
                "on its last day",
                stamp(11, 2),
                clock(1_090, Some(1_090)),
                Verdict::Accept,
            ),
            (
                "expired",
                stamp(11, 2),
                clock(1_091, Some(1_091)),
                Verdict::Refuse(Reason::Expired),
            ),
            (
                "expired by the floor alone",
                stamp(11, 2),
                clock(1_091, None),
                Verdict::Refuse(Reason::Expired),
            ),
        ];
        for (name, stamp, clock, expected) in table {
            assert_eq!(floors.judge(&stamp, &clock), expected, "{name}");
        }
    }

    #[test]
    fn floors_only_rise_and_are_bounded() {
        let mut floors = Floors::default();
        floors.raise(&stamp(10, 1));
        floors.raise(&stamp(9, 2));
        assert_eq!(floors.generation("g/line-3", Kind::Desired), Some(10));
        let names: Vec<String> = (0..FLOORS).map(|n| format!("g/{n}")).collect();
        for name in &names[1..] {
            floors.raise(&Stamp {
                audience: name,
                ..stamp(1, 1)
            });
        }
        let now = clock(1_000, None);
        assert_eq!(
            floors.judge(
                &Stamp {
                    audience: "g/other",
                    ..stamp(1, 1)
                },
                &now
            ),
            Verdict::Refuse(Reason::Busy)
        );
        assert_eq!(
            floors.judge(&stamp(11, 1), &now),
            Verdict::Accept,
            "known audiences go on"
        );
    }

    #[test]
    fn an_unsynchronised_clock_never_raises_the_floor() {
        let at = |day: u64| Unix(day * DAY);
        assert_eq!(Clock::new(at(5), at(7), at(6), None).floor, at(7));
        assert_eq!(Clock::new(at(5), at(1), at(6), None).floor, at(6));
        assert_eq!(Clock::new(at(5), at(1), at(1), None).floor, at(5));
        assert_eq!(Clock::new(at(5), at(7), at(6), Some(at(9))).floor, at(9));
        assert_eq!(
            Clock::new(at(5), at(7), at(6), Some(at(1))).floor,
            at(7),
            "a clock that is behind does not lower it"
        );
    }
}
