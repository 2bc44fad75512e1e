//! Preparation: fetch the images, check them, create the containers, write the set to come. Nothing that runs is touched.

use crate::plan::update::Event;
use crate::types::deployment::{BytesMoved, Cause, Reason, State};
use crate::types::digest::Digest;

use super::core::{Care, Core, Now};
use super::files::Source;
use super::hands::{Cancel, Container, Failure, Phase};
use super::work::{AppFailure, Images, Job, Ticket};

impl Core {
    pub(super) fn begin_fetch(&mut self, source: Source, now: Now) {
        let Some(flight) = self.flights.get_mut(&source) else {
            return;
        };
        flight.retry_at = None;
        if self.working.contains_key(&source) {
            // The job of a deployment that was given up ends first; its answer looks again.
            flight.retry_at = Some(now.mono.plus(100));
            return;
        }
        let Some(set) = &flight.set else { return };
        let coming = |name: &String| set.get(name).map(|one| (name.clone(), one.app.image.clone()));
        let images: Vec<(String, String)> = flight.changes.keys().filter_map(coming).collect();
        if images.is_empty() {
            // Apps only go: nothing to fetch.
            return self.advance(source, Event::Fetched, now);
        }
        let ticket = self.work(source);
        let cancel = self
            .working
            .get(&source)
            .map(|(_, cancel)| cancel.clone())
            .unwrap_or_default();
        let rollout = self.active(source).and_then(|active| active.rollout.as_ref());
        // What is no rate was refused.
        let rate = rollout.and_then(|rollout| rollout.rate().ok().flatten());
        self.job(Job::Fetch {
            ticket,
            images,
            rate,
            cancel,
        });
    }

    pub(super) fn progress(&mut self, ticket: &Ticket, bytes: BytesMoved, now: Now) {
        let Some(flight) = self.flights.get_mut(&ticket.source) else {
            return;
        };
        if flight.work != Some(ticket.number) {
            return;
        }
        flight.bytes = bytes;
        // Published, not written: the numbers are worth nothing after a power cut.
        self.stamp(ticket.source, now);
        self.report_deployment(ticket.source);
    }

    pub(super) fn fetched(&mut self, ticket: &Ticket, result: Result<Images, AppFailure>, now: Now) {
        let source = ticket.source;
        if !self.answered(ticket, now) {
            return;
        }
        match result {
            Ok(Images {
                manifests: images,
                bytes,
            }) => {
                if let Some(flight) = self.flights.get_mut(&source) {
                    flight.bytes = bytes;
                    for one in flight.set.iter_mut().flat_map(|set| &mut set.apps) {
                        let found = images.iter().find(|(name, _)| *name == one.app.name);
                        one.image = found.map(|(_, digest)| *digest).or(one.image);
                    }
                }
                if let Some(active) = self.active_mut(source) {
                    for record in &mut active.record.apps {
                        if let (Some(to), Some((_, digest))) =
                            (&mut record.to, images.iter().find(|(name, _)| *name == record.name))
                        {
                            to.image = Some(*digest);
                        }
                    }
                }
                self.advance(source, Event::Fetched, now);
            }
            Err((app, failure)) => self.not_prepared(source, &app, failure, now),
        }
    }

    pub(super) fn begin_stage(&mut self, source: Source, now: Now) {
        let Some(flight) = self.flights.get(&source) else {
            return;
        };
        let Some(set) = &flight.set else { return };
        let coming = |name: &String| set.get(name).and_then(|one| Some((one.app.clone(), one.image?)));
        let apps: Vec<_> = flight.changes.keys().filter_map(coming).collect();
        if apps.is_empty() {
            return self.everything_staged(source, now);
        }
        let keep = self.needed_images();
        let ticket = self.work(source);
        self.job(Job::Stage { ticket, apps, keep });
    }

    pub(super) fn staged(&mut self, ticket: &Ticket, made: Vec<Container>, result: Result<(), AppFailure>, now: Now) {
        for container in made {
            // A stage job removes containers of the same version that are of no use.
            let stale = |care: &Care| care.container.app == container.app && care.container.spec == container.spec;
            self.cares.retain(|id, care| *id == container.id || !stale(care));
            self.take_in(container, now);
        }
        if !self.answered(ticket, now) {
            return self.clean_up();
        }
        match result {
            Ok(()) => self.everything_staged(ticket.source, now),
            Err((app, failure)) => self.not_prepared(ticket.source, &app, failure, now),
        }
    }

    /// Writes the set to come, so that the switch and all that follows need nothing but what is on this disk.
    fn everything_staged(&mut self, source: Source, now: Now) {
        let Some(set) = self.flights.get(&source).and_then(|flight| flight.set.as_ref()) else {
            return;
        };
        match self.files.write_next(source, set) {
            Ok(()) => self.advance(source, Event::Staged, now),
            Err(error) => {
                let cause = Cause::new(Reason::Disk, error.to_string());
                self.advance(source, Event::Later(cause, now.dice), now);
            }
        }
    }

    fn not_prepared(&mut self, source: Source, app: &str, failure: Failure, now: Now) {
        let cause = Cause::new(failure.cause.code, format!("app `{app}`: {}", failure.cause.detail));
        let tries = self.active(source).map_or(0, |active| active.update.tries);
        let given_up = failure.cause.code == Reason::Net && tries + 1 >= self.settings.pull_attempts;
        if failure.later && !given_up {
            self.advance(source, Event::Later(cause, now.dice), now);
        } else {
            if let Some(active) = self.active_mut(source) {
                active.culprit = Some(app.to_owned());
            }
            self.advance(source, Event::Impossible(cause), now);
        }
    }

    /// The images of every committed set and of every set to come.
    pub(super) fn needed_images(&self) -> Vec<Digest> {
        let coming = self.flights.values().filter_map(|flight| flight.set.as_ref());
        let mut images: Vec<Digest> = self
            .sets
            .values()
            .chain(coming)
            .flat_map(|set| &set.apps)
            .filter_map(|one| one.image)
            .collect();
        images.sort_unstable();
        images.dedup();
        images
    }

    /// Notes that a job of this source begins.
    fn work(&mut self, source: Source) -> Ticket {
        let ticket = self.ticket(source);
        self.working.insert(source, (ticket.number, Cancel::default()));
        if let Some(flight) = self.flights.get_mut(&source) {
            flight.work = Some(ticket.number);
        }
        ticket
    }

    /// Notes that a job is done; whether its deployment still waits for it.
    fn answered(&mut self, ticket: &Ticket, now: Now) -> bool {
        if self
            .working
            .get(&ticket.source)
            .is_some_and(|(number, _)| *number == ticket.number)
        {
            self.working.remove(&ticket.source);
        }
        let Some(flight) = self.flights.get_mut(&ticket.source) else {
            return false;
        };
        if flight.work != Some(ticket.number) {
            self.look(ticket.source, now);
            return false;
        }
        flight.work = None;
        matches!(self.state(ticket.source), Some(State::Fetching | State::Verifying))
    }

    /// Looks after a container from now on.
    pub(super) fn take_in(&mut self, container: Container, now: Now) {
        let id = container.id;
        let mut care = Care {
            running: false,
            since: now.mono,
            health: crate::types::health::HealthStatus::None,
            restarts: crate::plan::restart::Restarts::default(),
            ended: None,
            stopping: false,
            container,
        };
        match care.container.phase {
            Phase::Running { since, health } => {
                care.running = true;
                care.since = Core::mono_of(since, now);
                care.health = health;
            }
            Phase::Ended(ended) => care.ended = Some(ended),
            Phase::Created | Phase::Lost => {}
        }
        self.cares.insert(id, care);
    }
}
