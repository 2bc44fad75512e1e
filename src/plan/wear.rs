//! Wear of flash: how much is written in a day, against a budget.

use crate::types::time::Mono;

/// Milliseconds of a day; the first one begins with the boot.
const DAY_MS: u64 = 86_400_000;

/// A day's writes against their budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wear {
    budget: u64,
    day: Option<Day>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Day {
    begun: Mono,
    /// What the kernel had counted then.
    counted: u64,
    /// And at the last look.
    last: u64,
    over: bool,
}

impl Day {
    fn new(begun: Mono, counted: u64) -> Day {
        Day {
            begun,
            counted,
            last: counted,
            over: false,
        }
    }
}

impl Wear {
    /// With a budget of so many bytes a day.
    pub fn new(budget: u64) -> Wear {
        Wear { budget, day: None }
    }

    /// Takes what the kernel has counted since the boot; gives what was written today when that has passed the budget since the last look.
    pub fn read(&mut self, now: Mono, counted: u64) -> Option<u64> {
        // What was written before an agent of the first day looked is known too.
        let (begun, before) = if now.0 < DAY_MS { (Mono(0), 0) } else { (now, counted) };
        let first = self.day.is_none();
        let day = self.day.get_or_insert(Day::new(begun, before));
        if now.since(day.begun) >= DAY_MS {
            *day = Day::new(now, counted);
        }
        // A disk that was taken out and put in again counts from nothing.
        if counted < day.last {
            *day = Day::new(now, 0);
        }
        day.last = counted;
        let written = counted - day.counted;
        let passed = !day.over && written > self.budget;
        day.over |= passed;
        (passed && !first).then_some(written)
    }

    /// Today's budget is spent.
    pub fn is_over(&self) -> bool {
        self.day.as_ref().is_some_and(|day| day.over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_over_its_budget_is_told_once() {
        const HOUR: u64 = 3_600_000;
        // Hours since the boot, bytes since then; what is told; over afterwards.
        for (name, reads) in [
            (
                "within",
                &[(0, 0, None, false), (1, 100, None, false), (30, 200, None, false)][..],
            ),
            (
                "passed, told once, and the next day begins anew",
                &[
                    (1, 100, None, false),
                    (2, 101, Some(101), true),
                    (3, 500, None, true),
                    (24, 700, None, false),
                    (25, 800, None, false),
                    (26, 801, Some(101), true),
                    (48, 900, None, false),
                ],
            ),
            (
                "an agent that starts late on the first day",
                &[(20, 101, None, true), (21, 201, None, true), (25, 301, None, false)],
            ),
            (
                "one that starts later",
                &[
                    (100, 9000, None, false),
                    (101, 9100, None, false),
                    (102, 9101, Some(101), true),
                ],
            ),
            (
                "a disk that counts anew",
                &[
                    (0, 0, None, false),
                    (1, 300, Some(300), true),
                    (2, 10, None, false),
                    (3, 111, Some(111), true),
                ],
            ),
        ] {
            let mut wear = Wear::new(100);
            for &(hours, counted, told, over) in reads {
                let said = wear.read(Mono(hours * HOUR), counted);
                assert_eq!((said, wear.is_over()), (told, over), "{name}: hour {hours}");
            }
        }
        assert_eq!(Wear::new(u64::MAX).read(Mono(0), u64::MAX), None);
    }
}
