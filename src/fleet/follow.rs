//! A rollout, followed live.

use std::time::{Duration, Instant};

use super::judge::{self, Tally};
use super::link::Link;
use super::rollout::{self, Published, Terms};
use super::seen::{self, Seen};
use super::{FleetError, Operator, Target, numbers};
use crate::types::document::Desired;

/// What comes within this time is one picture.
const LOOK: Duration = Duration::from_millis(500);
/// Wait between two pictures when nothing comes: somebody may have been silent for too long.
const IDLE: Duration = Duration::from_secs(3);

/// Somebody who follows the rollouts of one target.
pub struct Follower<'a> {
    operator: &'a Operator,
    target: Target,
    link: Link,
    seen: Seen,
    deadline_ms: u64,
    /// Shares that the current activity went through.
    steps: Vec<f64>,
    last: Option<Desired>,
    /// Failures that were there when somebody let a halted rollout go on.
    forgiven: usize,
    /// Failures in the last picture.
    failed: usize,
}

/// How it stands now.
pub struct Picture {
    /// What is rolled out.
    pub document: Desired,
    /// What came of it.
    pub tally: Tally,
    /// Too many have failed.
    pub bad: bool,
}

impl<'a> Follower<'a> {
    /// Subscribes, and takes in what is there.
    pub fn new(
        operator: &'a Operator,
        mut link: Link,
        target: Target,
        exact: &[String],
        deadline: Duration,
        longest: Duration,
    ) -> Result<Follower<'a>, FleetError> {
        let leaves = ["presence", "deploy", "assign", "desired"];
        link.subscribe(seen::filters(Some(&target), &leaves, exact));
        let mut seen = Seen::default();
        seen.gather(&mut link, &operator.trusted, longest)?;
        Ok(Follower {
            operator,
            target,
            link,
            seen,
            deadline_ms: deadline.as_millis() as u64,
            steps: Vec::new(),
            last: None,
            forgiven: 0,
            failed: 0,
        })
    }

    /// How it stands after the next messages, or a while without any; `None` while nothing is rolled out.
    pub fn look(&mut self) -> Result<Option<Picture>, FleetError> {
        if let Some(heard) = self.link.next(IDLE)? {
            self.seen.take(&heard, &self.operator.trusted);
        }
        let until = Instant::now() + LOOK;
        while let Some(heard) = self.link.next(until.saturating_duration_since(Instant::now()))? {
            self.seen.take(&heard, &self.operator.trusted);
        }
        self.picture()
    }

    /// How it stands.
    pub fn picture(&mut self) -> Result<Option<Picture>, FleetError> {
        let Some(document) = self.seen.document(&self.target) else {
            return Ok(None);
        };
        // Documents of strangers are none.
        let Ok(document) = document.desired() else {
            return Ok(None);
        };
        let percent = document.rollout.as_ref().map_or(100.0, |rollout| rollout.percent);
        if self.last.as_ref().is_none_or(|last| last.activity != document.activity) {
            self.steps.clear();
            self.forgiven = 0;
        }
        if !self.steps.contains(&percent) {
            self.steps.push(percent);
            self.steps.sort_by(f64::total_cmp);
        }
        let tally = judge::tally(
            &self.seen,
            &self.target,
            &document,
            &self.steps,
            numbers::now(),
            self.deadline_ms,
        );
        let halted = |document: &Desired| document.rollout.as_ref().is_some_and(|rollout| rollout.halted);
        let same = self.last.as_ref().filter(|last| last.activity == document.activity);
        if same.is_some_and(halted) && !halted(&document) {
            self.forgiven = tally.failed;
        }
        let bad = !halted(&document) && document.rollout.is_some() && tally.is_bad(self.forgiven);
        self.last = Some(document.clone());
        self.failed = tally.failed;
        Ok(Some(Picture { document, tally, bad }))
    }

    /// Halts what is rolled out.
    pub fn halt(&mut self) -> Result<Published, FleetError> {
        let terms = Terms {
            halted: Some(true),
            ..Terms::default()
        };
        let target = self.target.clone();
        let mut make = |generation, seen: &Seen| match seen.document(&target) {
            Some(before) => rollout::go_on(&before.desired()?, &terms, generation, numbers::now()),
            None => Err(FleetError::Invalid("there is nothing to halt any more".into())),
        };
        let published = rollout::publish(
            &mut self.link,
            &mut self.seen,
            self.operator,
            &self.target,
            None,
            &mut make,
        )?;
        // Whoever lets it go on may be quicker than the next picture.
        self.forgiven = self.failed;
        Ok(published)
    }

    /// Says goodbye.
    pub fn close(self) {
        self.link.close();
    }
}
