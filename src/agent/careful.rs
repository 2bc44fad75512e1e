//! Filters that bring more than fits. MQTT 3.1.1 has no words for a bound, so a broker may send a packet that ends the connection, and send
//! it again with the next one. After two such connections the filters are subscribed one by one: the one that brings the packet is left
//! out for a while.

use crate::types::time::Mono;
use crate::uplink::session::OVERSIZE;

/// What stands on a filter's topics comes within this time, milliseconds.
const STEP_MS: u64 = 3_000;
/// A filter is left out for so long, milliseconds.
const OUT_MS: u64 = 900_000;

/// Where the search is.
#[derive(Debug, Default)]
pub(super) struct Careful {
    steps: Option<Steps>,
    out: Vec<String>,
    until: Option<Mono>,
}

#[derive(Debug)]
struct Steps {
    filters: Vec<String>,
    /// So many of them are subscribed.
    taken: usize,
    /// When the next one is; none without a connection.
    due: Option<Mono>,
}

impl Careful {
    /// Filters are taken one by one.
    pub(super) fn is_on(&self) -> bool {
        self.steps.is_some()
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Mono> {
        self.steps.as_ref().map_or(self.until, |steps| steps.due)
    }

    /// A connection has ended, with more than fits for the `oversize`th time in a row. The filter that is to blame, where it is known.
    pub(super) fn lost(&mut self, oversize: u32, now: Mono) -> Option<String> {
        let Some(steps) = &mut self.steps else {
            if oversize >= OVERSIZE {
                self.steps = Some(Steps {
                    filters: Vec::new(),
                    taken: 0,
                    due: None,
                });
            }
            return None;
        };
        let last = steps.taken.checked_sub(1).and_then(|at| steps.filters.get(at)).cloned();
        (steps.taken, steps.due) = (0, None);
        let blamed = last.filter(|_| oversize > 0)?;
        self.out.push(blamed.clone());
        self.until = Some(now.plus(OUT_MS));
        Some(blamed)
    }

    /// A connection stands; whether its filters are taken one by one.
    pub(super) fn connected(&mut self, filters: &[String], now: Mono) -> bool {
        let filters = self.allowed(filters.to_vec());
        let Some(steps) = &mut self.steps else {
            return false;
        };
        *steps = Steps {
            filters,
            taken: 0,
            due: Some(now),
        };
        true
    }

    /// The next filter to subscribe; with none left, all may be.
    pub(super) fn next(&mut self, now: Mono) -> Option<String> {
        let steps = self.steps.as_mut()?;
        if steps.due.is_none_or(|due| now < due) {
            return None;
        }
        steps.due = Some(now.plus(STEP_MS));
        let filter = steps.filters.get(steps.taken).cloned();
        match &filter {
            Some(_) => steps.taken += 1,
            None => self.steps = None,
        }
        filter
    }

    /// There was no room for the request.
    pub(super) fn back(&mut self) {
        if let Some(steps) = &mut self.steps {
            steps.taken = steps.taken.saturating_sub(1);
        }
    }

    /// These without what is left out.
    pub(super) fn allowed(&self, filters: Vec<String>) -> Vec<String> {
        filters
            .into_iter()
            .filter(|filter| !self.out.contains(filter))
            .collect()
    }

    /// Whether what was left out is tried again now.
    pub(super) fn forgives(&mut self, now: Mono) -> bool {
        let over = self.steps.is_none() && self.until.is_some_and(|until| now >= until);
        if over {
            self.out.clear();
            self.until = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_that_brings_too_much_is_found_and_left_out_for_a_while() {
        let filters: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let mut careful = Careful::default();
        assert_eq!(careful.lost(1, Mono(0)), None);
        assert!(!careful.connected(&filters, Mono(0)));
        assert_eq!(careful.lost(2, Mono(1)), None);
        assert!(careful.is_on());
        assert!(careful.connected(&filters, Mono(10)));
        assert_eq!(careful.next(Mono(10)).as_deref(), Some("a"));
        assert_eq!(careful.next(Mono(11)), None, "what `a` brings comes first");
        assert_eq!(careful.next(Mono(10 + STEP_MS)).as_deref(), Some("b"));
        // Another reason blames nobody.
        assert_eq!(careful.lost(0, Mono(4_000)), None);
        assert!(careful.connected(&filters, Mono(5_000)));
        assert_eq!(careful.next(Mono(5_000)).as_deref(), Some("a"));
        assert_eq!(careful.next(Mono(9_000)).as_deref(), Some("b"));
        assert_eq!(careful.lost(1, Mono(9_001)).as_deref(), Some("b"));
        assert!(careful.connected(&filters, Mono(10_000)));
        for (at, expected) in [(10_000, Some("a")), (14_000, Some("c")), (18_000, None)] {
            assert_eq!(careful.next(Mono(at)).as_deref(), expected, "{at}");
        }
        assert!(!careful.is_on());
        assert_eq!(careful.allowed(filters.clone()), ["a", "c"]);
        assert!(!careful.forgives(Mono(20_000)));
        assert!(careful.forgives(Mono(9_001 + OUT_MS)));
        assert_eq!(careful.allowed(filters.clone()), filters);
        assert_eq!(careful.due(), None);
    }
}
