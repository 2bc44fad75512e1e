//! Documents: which are new, which are refused, and what holds an accepted one back.

use crate::plan::admission::{Need, admit, beside_refusal, ports_refusal, snapshot_refusal};
use crate::plan::reconcile::{self, Change, Current, Plan, Refusal, Wanted};
use crate::plan::update::{Event, Update};
use crate::plan::window;
use crate::types::app::{App, Strategy, VolumePolicy, set_problems};
use crate::types::deployment::{AppRecord, BytesMoved, Cause, Reason, Record, State, Version};
use crate::types::digest::Digest;
use crate::types::sorted::Sorted;
use crate::types::time::Unix;

use super::core::{Core, Flight, Now, Reply, Wish};
use super::files::{self, Deployment, Handled, Set, SetApp, Source};

impl Core {
    /// Takes a document.
    pub(super) fn apply(&mut self, wish: Wish, now: Now) {
        let source = wish.source;
        let digest = set_digest(&wish.apps);
        let rollout = |id: Option<&String>| id.is_some() && id == wish.rollout.as_ref().map(|r| &r.id);
        if let Some(active) = self.active(source) {
            let same_document = active.record.activity == wish.activity && active.record.generation == wish.generation;
            let same_set = active.set == digest;
            let may_be_given_up = active.update.may_be_given_up();
            if same_set && (same_document || rollout(active.record.rollout.as_ref())) {
                return self.refresh(wish, now);
            }
            if same_document {
                return;
            }
            if may_be_given_up {
                self.advance(source, Event::Superseded, now);
                return self.begin(wish, now);
            }
            // From SWITCHING on it finishes; the newest document waits for that.
            if let Some(older) = self.pending.insert(source, wish) {
                self.supersede_unseen(&older, now);
            }
            return;
        }
        // What failed is tried again, but not what switched and could not go back either: its end is what stays reported.
        let finals = &self.history.finals;
        let over = |one: &Handled| match one.state {
            State::Committed | State::RolledBack => true,
            State::Failed => finals.iter().rev().any(|last| {
                let cause = last.reason.as_ref().map(|cause| cause.code);
                last.activity == one.activity && cause == Some(Reason::RollbackFailed)
            }),
            _ => false,
        };
        let mut handled = self.journal.handled.iter_mut();
        if let Some(handled) = handled.find(|one| one.source == source && over(one)) {
            if handled.activity == wish.activity && handled.generation == wish.generation {
                return;
            }
            if handled.set == digest && rollout(handled.rollout.as_ref()) && wish.retry.is_empty() {
                // Only the rollout's fields changed: this device has finished and stays silent.
                handled.generation = wish.generation;
                return;
            }
        } else if source == Source::Local && wish.apps.is_empty() && !self.sets.contains_key(&source) {
            // An empty folder that was always empty: nobody asked, so nobody is answered.
            return;
        }
        self.begin(wish, now);
    }

    /// The same set with other rollout fields, or the same document after a restart: no new activity.
    fn refresh(&mut self, wish: Wish, now: Now) {
        let source = wish.source;
        let set = set_of(&wish);
        if let Some(active) = self.active_mut(source) {
            active.record.generation = wish.generation;
            active.rollout = wish.rollout;
        }
        let Some(flight) = self.flights.get_mut(&source) else {
            return;
        };
        if flight.set.is_none() && self.state(source).is_some_and(crate::plan::update::before_switching) {
            match self.examine(source, set) {
                Ok((set, plan)) => self.equip(source, set, plan, now),
                Err(cause) => return self.advance(source, Event::Refused(cause), now),
            }
        }
        self.look(source, now);
    }

    /// Begins a deployment, to its end where it is refused or nothing changes.
    fn begin(&mut self, wish: Wish, now: Now) {
        let source = wish.source;
        if !wish.retry.is_empty() && self.history.quarantine.release(&wish.retry) {
            self.write_quarantine(now);
        }
        let last = self
            .history
            .finals
            .iter()
            .rev()
            .find(|record| record.activity == wish.activity);
        let attempt = last.map_or(1, |record| record.attempt.saturating_add(1));
        let set = set_of(&wish);
        let digest = set.digest();
        let wanted: Vec<(String, Digest)> = set.apps.iter().map(|one| (one.app.name.clone(), one.spec)).collect();
        let examined = match wish_problem(&wish, self.settings.pinned && source == Source::Fleet) {
            Some(cause) => Err(cause),
            None => self.examine(source, set),
        };
        let apps = match &examined {
            Ok((set, plan)) => self.app_records(source, set, plan),
            Err(_) => Vec::new(),
        };
        let record = Record {
            activity: wish.activity,
            generation: wish.generation,
            source: wish.label,
            rollout: wish.rollout.as_ref().map(|rollout| rollout.id.clone()),
            state: State::Accepted,
            since: now.unix,
            seq: 0,
            apps,
            bytes: BytesMoved::default(),
            reason: None,
            attempt,
        };
        self.journal.active.push(Deployment {
            source,
            update: Update::new(),
            record,
            rollout: wish.rollout,
            set: digest,
            culprit: None,
            soaked: 0,
            reboots: 0,
            restarts: Vec::new(),
        });
        self.flights.insert(
            source,
            Flight {
                begun: now.mono,
                ..Flight::default()
            },
        );
        match examined {
            Err(cause) => self.advance(source, Event::Refused(cause), now),
            Ok((set, plan)) => {
                let held: Vec<(String, String)> = wanted
                    .iter()
                    .filter_map(|(name, spec)| Some((name, self.history.quarantine.holds(name, spec)?)))
                    .map(|(name, entry)| (name.clone(), entry.cause.to_string()))
                    .collect();
                for (name, why) in held {
                    let text = format!("app `{name}` stays as it is: the version that is wanted failed before ({why})");
                    self.event(Reason::Quarantined, Some(&name), text, now);
                }
                self.stamp(source, now);
                // Synced, so that after a power cut it is this deployment that is told of, and not again the one before it: the numbers
                // that were told with it would go back.
                if let Err(error) = self.write_journal(true, files::journal_step(State::Accepted)) {
                    self.disk_event(&error, now);
                }
                self.report_deployment(source);
                let unchanged = plan.changes.is_empty();
                self.equip(source, set, plan, now);
                if unchanged {
                    self.commit_unchanged(source, now)
                } else {
                    self.look(source, now)
                }
            }
        }
    }

    /// Gives a deployment its set and its plan.
    pub(super) fn equip(&mut self, source: Source, set: Set, plan: Plan, now: Now) {
        if let Some(flight) = self.flights.get_mut(&source) {
            flight.begun = now.mono;
            flight.set = Some(set);
            flight.changes = plan.changes;
            flight.steps = plan.steps;
        }
    }

    /// A document that another one replaced before its turn came: it gets its final answer all the same.
    fn supersede_unseen(&mut self, wish: &Wish, now: Now) {
        self.journal.seq += 1;
        let record = Record {
            activity: wish.activity.clone(),
            generation: wish.generation,
            source: wish.label.clone(),
            rollout: wish.rollout.as_ref().map(|rollout| rollout.id.clone()),
            state: State::Superseded,
            since: now.unix,
            seq: self.journal.seq,
            apps: Vec::new(),
            bytes: BytesMoved::default(),
            reason: None,
            attempt: 1,
        };
        self.history.finals.push(record);
        if let Err(error) = self.files.write_history(&mut self.history, files::FINAL) {
            self.disk_event(&error, now);
        }
        self.report_deployment(wish.source);
    }

    /// Whether the set can be brought here at all: order, ownership, quarantine, budget. The set may come back with quarantined apps
    /// left as they are, where its source is not one whole (local documents are files of their own).
    pub(super) fn examine(&self, source: Source, mut set: Set) -> Result<(Set, Plan), Cause> {
        self.hold_quarantined(source, &mut set);
        for one in &set.apps {
            if one.app.update.strategy == Strategy::StartFirst
                && let Some(why) = beside_refusal(&one.app)
            {
                return Err(Cause::new(
                    Reason::Schema,
                    format!("app `{}`: start-first is not possible: {why}", one.app.name),
                ));
            }
        }
        let others = self.sets.iter().filter(|(owner, _)| **owner != source);
        let all: Vec<&App> = others
            .flat_map(|(_, set)| &set.apps)
            .chain(&set.apps)
            .map(|one| &one.app)
            .collect();
        if let Some(why) = snapshot_refusal(&all).or_else(|| ports_refusal(&all)) {
            return Err(Cause::new(Reason::Schema, why));
        }
        let plan = self.plan(source, Some(&set)).map_err(refusals)?;
        for name in plan.changes.keys() {
            let Some(one) = set.get(name) else { continue };
            if let Some(entry) = self.history.quarantine.holds(name, &one.spec) {
                let text = format!(
                    "app `{name}`: this version failed before ({}); change it, or name it in `retry`",
                    entry.cause
                );
                return Err(Cause::new(Reason::Quarantined, text));
            }
        }
        self.admit(source, &set, &plan.changes, None)
            .map_err(|over| Cause::new(Reason::Budget, over))?;
        let old = self.sets.get(&source);
        for one in &mut set.apps {
            let same = old
                .and_then(|old| old.get(&one.app.name))
                .filter(|old| old.spec == one.spec);
            one.image = one.image.or(same.and_then(|old| old.image));
        }
        Ok((set, plan))
    }

    fn hold_quarantined(&self, source: Source, set: &mut Set) {
        // Local documents are files of their own, and independent apps go alone: they hold no others up.
        let held = |one: &SetApp| {
            let alone = source == Source::Local || one.app.update.independent;
            alone && self.history.quarantine.holds(&one.app.name, &one.spec).is_some()
        };
        let old = self.sets.get(&source);
        let apps = std::mem::take(&mut set.apps);
        set.apps = apps
            .into_iter()
            .filter_map(|one| {
                if held(&one) {
                    old.and_then(|old| old.get(&one.app.name)).cloned()
                } else {
                    Some(one)
                }
            })
            .collect();
    }

    /// The plan from what is committed to `wanted` (nothing when `None`).
    pub(super) fn plan(&self, source: Source, wanted: Option<&Set>) -> Result<Plan, Vec<Refusal<Source>>> {
        let wanted: Vec<Wanted> = wanted
            .iter()
            .flat_map(|set| &set.apps)
            .map(|one| Wanted {
                name: &one.app.name,
                spec: one.spec,
                depends_on: &one.app.depends_on,
                beside: one.app.update.strategy == Strategy::StartFirst,
                saves: one.app.update.volumes == VolumePolicy::Snapshot,
            })
            .collect();
        let current: Vec<Current<Source>> = self
            .sets
            .iter()
            .flat_map(|(owner, set)| set.apps.iter().map(move |one| (owner, one)))
            .map(|(owner, one)| Current {
                name: &one.app.name,
                spec: one.spec,
                depends_on: &one.app.depends_on,
                owner: *owner,
            })
            .collect();
        reconcile::plan(&source, &wanted, &current)
    }

    /// Whether two deployments get into each other's way: both have an app of the same name, an app of one depends on an app of the other, they write to the same volume
    /// of which one wants it back, or the memory is not enough for both.
    pub(super) fn touches(&self, source: Source, other: Source) -> bool {
        let set = |source| self.flights.get(&source).and_then(|flight| flight.set.as_ref());
        let (Some(flight), Some(own), Some(theirs)) = (self.flights.get(&source), set(source), set(other)) else {
            return true;
        };
        let leans = |one: &Set, on: &Set| {
            let mut depends = one.apps.iter().flat_map(|one| &one.app.depends_on);
            depends.any(|name| on.get(name).is_some())
        };
        // A name has one owner, and who that is stands only after the commit.
        let same = own.apps.iter().any(|one| theirs.get(&one.app.name).is_some());
        let all: Vec<&App> = own.apps.iter().chain(&theirs.apps).map(|one| &one.app).collect();
        same || leans(own, theirs)
            || leans(theirs, own)
            || snapshot_refusal(&all).is_some()
            || ports_refusal(&all).is_some()
            || self.admit(source, own, &flight.changes, Some(theirs)).is_err()
    }

    /// Whether the memory is enough for `set` and the committed sets of the others, and beside those for `coming`.
    fn admit(
        &self,
        source: Source,
        set: &Set,
        changes: &Sorted<String, Change>,
        coming: Option<&Set>,
    ) -> Result<(), String> {
        let memory = |app: &App| app.limits.memory.map_or(self.settings.default_memory, |bytes| bytes.0);
        let old = self.sets.get(&source);
        let mut needs = Vec::new();
        for one in &set.apps {
            let both =
                one.app.update.strategy == Strategy::StartFirst && changes.get(&one.app.name) == Some(&Change::Update);
            let beside = old
                .and_then(|old| old.get(&one.app.name))
                .filter(|_| both)
                .map_or(0, |old| memory(&old.app));
            needs.push(Need {
                name: &one.app.name,
                memory: memory(&one.app),
                beside,
            });
        }
        let others = self
            .sets
            .iter()
            .filter(|(owner, _)| **owner != source)
            .flat_map(|(_, set)| &set.apps);
        let mut most: Sorted<&str, u64> = Sorted::new();
        for one in others.chain(coming.iter().flat_map(|set| &set.apps)) {
            let need = most.or_default(one.app.name.as_str());
            *need = memory(&one.app).max(*need);
        }
        needs.extend(most.into_iter().map(|(name, memory)| Need {
            name,
            memory,
            beside: 0,
        }));
        admit(self.settings.budget, &needs).map_err(|over| over.to_string())
    }

    fn app_records(&self, source: Source, set: &Set, plan: &Plan) -> Vec<AppRecord> {
        let version = |one: &SetApp| Version {
            image: one.image,
            spec: one.spec,
        };
        let old = self.sets.get(&source);
        plan.changes
            .keys()
            .map(|name| AppRecord {
                name: name.clone(),
                from: old.and_then(|old| old.get(name)).map(version),
                to: set.get(name).map(version),
                state: State::Accepted,
                reason: None,
            })
            .collect()
    }

    /// Lifts the quarantine of these apps. Their sources apply their documents again afterwards.
    pub(super) fn retry(&mut self, apps: &[String], now: Now) {
        if self.history.quarantine.release(apps) {
            // The same documents count as new again.
            self.journal.handled.clear();
            self.write_quarantine(now);
        }
    }

    pub(super) fn write_quarantine(&mut self, now: Now) {
        if let Err(error) = self.files.write_quarantine(&mut self.history) {
            self.disk_event(&error, now);
        }
    }

    /// Leaves the version of an app for the one before.
    pub(super) fn roll_back_app(&mut self, app: &str, reply: Reply, now: Now) {
        let cause = Cause::new(Reason::Interrupted, format!("a rollback of app `{app}` was asked for"));
        let flying = self
            .journal
            .active
            .iter()
            .find(|one| one.update.runs_new() && one.record.apps.iter().any(|a| a.name == app));
        if let Some(source) = flying.map(|one| one.source) {
            self.hold_version(source, app, &cause, now);
            self.turn_back(source, app, cause, now);
            self.write_quarantine(now);
            return reply(Ok(()));
        }
        let Some((source, spec)) = self.desired(app) else {
            return reply(Err(Cause::new(
                Reason::Schema,
                format!("no app `{app}` is managed here"),
            )));
        };
        let previous = self.files.read_previous(source).ok().flatten();
        let older = previous
            .and_then(|set| set.get(app).cloned())
            .filter(|one| one.spec != spec);
        let (Some(older), Some(set)) = (older, self.sets.get(&source).cloned()) else {
            return reply(Err(Cause::new(
                Reason::ImageMissing,
                format!("no version before the current one of app `{app}` is known"),
            )));
        };
        if self.active(source).is_some() {
            return reply(Err(Cause::new(
                Reason::Busy,
                format!("a deployment of `{source}` is under way"),
            )));
        }
        let entry = crate::plan::quarantine::Entry {
            app: app.to_owned(),
            spec,
            cause,
            at: now.unix,
        };
        self.history.quarantine.add(entry);
        self.write_quarantine(now);
        let apps = set
            .apps
            .iter()
            .map(|one| {
                if one.app.name == app {
                    older.app.clone()
                } else {
                    one.app.clone()
                }
            })
            .collect();
        let activity = format!("rollback-{app}-{}", self.journal.seq + 1);
        let label = set.label;
        self.begin(
            Wish {
                source,
                label,
                activity,
                generation: set.generation,
                rollout: None,
                retry: Vec::new(),
                apps,
            },
            now,
        );
        reply(Ok(()));
    }
}

fn set_of(wish: &Wish) -> Set {
    let apps = wish
        .apps
        .iter()
        .map(|app| SetApp {
            app: app.clone(),
            spec: app.spec_digest(),
            image: None,
        })
        .collect();
    Set {
        label: wish.label.clone(),
        activity: wish.activity.clone(),
        generation: wish.generation,
        apps,
    }
}

fn set_digest(apps: &[App]) -> Digest {
    files::digest_of(apps.iter().map(|app| (app.name.as_str(), app.spec_digest())))
}

/// What is wrong with the document itself.
fn wish_problem(wish: &Wish, pinned: bool) -> Option<Cause> {
    let mut lines: Vec<String> = set_problems(&wish.apps, "apps", pinned)
        .iter()
        .map(ToString::to_string)
        .collect();
    if let Some(rollout) = &wish.rollout {
        if rollout
            .window
            .as_ref()
            .is_some_and(|text| text.parse::<window::Window>().is_err())
        {
            lines.push("`rollout.window`: write for example `02:00-04:00`".into());
        }
        if rollout
            .not_before
            .as_ref()
            .is_some_and(|text| Unix::parse_rfc3339(text).is_none())
        {
            lines.push("`rollout.not_before`: write a time as `2026-11-21T22:00:00Z`".into());
        }
        if let Err(text) = rollout.rate() {
            lines.push(format!("`rollout.max_rate`: {text}"));
        }
        if !(0.0..=100.0).contains(&rollout.percent) {
            lines.push("`rollout.percent`: 0 to 100".into());
        }
    }
    (!lines.is_empty()).then(|| Cause::new(Reason::Schema, lines.join("; ")))
}

fn refusals(refusals: Vec<Refusal<Source>>) -> Cause {
    let owned = refusals.iter().any(|refusal| matches!(refusal, Refusal::Owned { .. }));
    let text: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    Cause::new(if owned { Reason::Conflict } else { Reason::Schema }, text.join("; "))
}
