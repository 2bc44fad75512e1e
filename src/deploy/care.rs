//! Care for running apps: what a container's end or a judgement means, restarts with back-off, starts in order.

use crate::plan::restart::{self, Decision, Ending, Pace};
use crate::types::container::RestartPolicy;
use crate::types::deployment::{Cause, Reason, State};
use crate::types::digest::Digest;
use crate::types::health::HealthStatus;
use crate::types::ids::ContainerId;
use crate::types::time::{Mono, Unix};

use super::core::{Care, Core, Now, Out, Reply, Start};
use super::files::Source;
use super::hands::{Container, Ended, Failure, Seen};
use super::work::Job;

/// The exit code that is reported when nobody saw how a run ended.
const UNKNOWN_EXIT: i32 = 255;

impl Core {
    pub(super) fn seen(&mut self, id: ContainerId, seen: Seen, now: Now) {
        let Some(care) = self.cares.get_mut(&id) else { return };
        match seen {
            Seen::Running(health) => {
                if !care.running {
                    care.running = true;
                    care.since = now.mono;
                }
                care.health = health;
                care.ended = None;
                if health == HealthStatus::Unhealthy {
                    self.unhealthy(id, now);
                }
            }
            Seen::Ended(ended) => self.run_ended(id, ended, now),
            Seen::Lost => {
                let at = now.unix;
                self.run_ended(
                    id,
                    Ended {
                        code: UNKNOWN_EXIT,
                        oom: false,
                        asked: false,
                        at,
                    },
                    now,
                );
            }
        }
        for source in Source::ALL {
            self.run_steps(source, now);
            self.check_probe(source, now);
            self.check_soak(source, now);
        }
    }

    /// A judgement turned bad: evidence for a deployment, else only reported.
    fn unhealthy(&mut self, id: ContainerId, now: Now) {
        let Some(care) = self.cares.get(&id) else { return };
        let app = care.container.app.clone();
        if self.desired(&app).map(|(_, spec)| spec) != Some(care.container.spec) {
            return;
        }
        let Some(source) = self.flying(&app) else { return };
        let (code, text) = match self.state(source) {
            Some(State::Soaking) => (Reason::SoakFailed, "became unhealthy while it soaked"),
            _ => (Reason::Unhealthy, "did not become healthy: its probes fail"),
        };
        self.evidence(source, &app, Cause::new(code, format!("app `{app}` {text}")), now);
    }

    fn run_ended(&mut self, id: ContainerId, ended: Ended, now: Now) {
        let Some(care) = self.cares.get_mut(&id) else { return };
        let was_running = std::mem::take(&mut care.running);
        care.health = HealthStatus::None;
        care.ended = Some(ended);
        let app = care.container.app.clone();
        if !was_running || care.stopping || self.busy.contains(&app) {
            return;
        }
        self.judge_end(id, ended, now);
    }

    /// Decides over the end of a run that nobody here asked for.
    pub(super) fn judge_end(&mut self, id: ContainerId, ended: Ended, now: Now) {
        let Some(care) = self.cares.get(&id) else { return };
        let (app, spec, since) = (care.container.app.clone(), care.container.spec, care.since);
        if self.desired(&app).map(|(_, wanted)| wanted) != Some(spec) {
            return;
        }
        let ending = match ended {
            Ended { asked: true, .. } => Ending::Stopped,
            Ended { oom: true, .. } => Ending::Oom,
            Ended { code, .. } => Ending::Exit(code),
        };
        let text = match ending {
            Ending::Oom => format!("app `{app}` was ended for want of memory"),
            _ => format!("app `{app}` exited with code {}", ended.code),
        };
        if ending == Ending::Oom {
            self.event(Reason::Oom, Some(&app), text.clone(), now);
        }
        self.after_end(&app, id, ending, Some(since), text, now);
    }

    /// What the restart policy and a deployment make of an end.
    pub(super) fn after_end(
        &mut self,
        app: &str,
        id: ContainerId,
        ending: Ending,
        since: Option<Mono>,
        text: String,
        now: Now,
    ) {
        let Some(spec) = self.cares.get(&id).map(|care| care.container.spec) else {
            return;
        };
        let (policy, pace) = self.policy(app, &spec);
        let Some(care) = self.cares.get_mut(&id) else { return };
        let looped = care.restarts.looping;
        let decision = care.restarts.ended(policy, &pace, ending, since, now.mono);
        let (looping, in_row) = (care.restarts.looping, care.restarts.in_row);
        if let Some(source) = self.flying(app) {
            let again = decision != Decision::Stay;
            let verdict = if self.state(source) == Some(State::RollingBack) {
                // Of the old version every end counts, but for one that was asked for or is its proper end.
                crate::plan::soak::ended(ending, false, 0, 0, again)
            } else {
                self.forgiven(source, app, ending, again)
            };
            if let Some(code) = verdict {
                self.evidence(source, app, Cause::new(code, text.clone()), now);
                if self.desired(app).map(|(_, wanted)| wanted) != Some(spec) {
                    return;
                }
            }
        }
        if looping && !looped {
            self.event(
                Reason::RestartLoop,
                Some(app),
                format!("{text}; {in_row} restarts in a row"),
                now,
            );
        }
        if let Decision::StartAt(at) = decision {
            self.starts.insert(
                app.to_owned(),
                Start {
                    at,
                    awaits: Vec::new(),
                    patience: at,
                },
            );
        }
    }

    fn policy(&self, app: &str, spec: &Digest) -> (RestartPolicy, Pace) {
        let document = self.document(app, spec);
        document.map_or((RestartPolicy::Always, restart::PACE), |one| {
            restart::of_app(&one.app.restart)
        })
    }

    /// Whether the version of the app that should run runs, and is healthy where it has a check; or is done for good.
    pub(super) fn is_well(&self, app: &str) -> bool {
        let Some((_, spec)) = self.desired(app) else {
            return false;
        };
        let Some(care) = self.find(app, &spec).and_then(|id| self.cares.get(&id)) else {
            return false;
        };
        if care.running {
            return !care.stopping && (care.container.health_check.is_none() || care.health == HealthStatus::Healthy);
        }
        let (policy, _) = self.policy(app, &spec);
        let done = |ended: Ended| ended.code == 0 && !ended.oom && !ended.asked;
        policy != RestartPolicy::Always && policy != RestartPolicy::UnlessStopped && care.ended.is_some_and(done)
    }

    /// Starts what is due.
    pub(super) fn run_starts(&mut self, now: Now) {
        let due = |start: &Start| {
            start.at <= now.mono && (start.patience <= now.mono || start.awaits.iter().all(|other| self.is_well(other)))
        };
        let ready: Vec<String> = self
            .starts
            .iter()
            .filter(|(app, start)| !self.busy.contains(*app) && due(start))
            .map(|(app, _)| app.clone())
            .collect();
        for app in ready {
            self.starts.remove(&app);
            let Some((_, spec)) = self.desired(&app) else { continue };
            match self.find(&app, &spec) {
                Some(id) if self.cares.get(&id).is_some_and(|care| care.running) => {}
                Some(id) => self.start_job(&app, id),
                None => self.mend(&app, &spec),
            }
        }
    }

    /// Plans a start of an app that should run and does not.
    pub(super) fn revive(&mut self, app: &str, now: Now) {
        let Some((_, spec)) = self.desired(app) else { return };
        let id = self.find(app, &spec);
        let care = id.and_then(|id| self.cares.get(&id));
        let left =
            care.is_some_and(|care| care.running || care.ended.is_some_and(|ended| ended.asked) && !care.stopping);
        if left || self.is_well(app) || self.busy.contains(app) || self.starts.contains_key(app) {
            return;
        }
        let (_, pace) = self.policy(app, &spec);
        let in_row = care.map_or(0, |care| care.restarts.in_row);
        let at = now.mono.plus(restart::backoff(&pace, in_row));
        self.starts.insert(
            app.to_owned(),
            Start {
                at,
                awaits: Vec::new(),
                patience: at,
            },
        );
    }

    /// Makes the container of a committed version again.
    pub(super) fn mend(&mut self, app: &str, spec: &Digest) {
        let Some(one) = self.document(app, spec).cloned() else {
            return;
        };
        crate::warn!("app `{app}` has no container; it is made again");
        self.busy.insert(app.to_owned());
        self.job(Job::Mend {
            app: Box::new(one.app),
            image: one.image,
        });
    }

    pub(super) fn mended(&mut self, app: &str, result: Result<Box<Container>, Failure>, now: Now) {
        self.busy.remove(app);
        let flying = self.flying(app);
        match result {
            Ok(container) => {
                self.take_in(*container, now);
                if flying.is_none() {
                    self.starts.insert(
                        app.to_owned(),
                        Start {
                            at: now.mono,
                            awaits: Vec::new(),
                            patience: now.mono,
                        },
                    );
                }
            }
            Err(failure) => {
                self.event(
                    failure.cause.code,
                    Some(app),
                    format!("its container cannot be made again: {}", failure.cause),
                    now,
                );
                match flying {
                    Some(source) => self.start_failed(source, app, &failure, now),
                    None => {
                        let wait = crate::plan::backoff::FETCH.wait(4, now.dice);
                        let at = now.mono.plus(wait);
                        self.starts.insert(
                            app.to_owned(),
                            Start {
                                at,
                                awaits: Vec::new(),
                                patience: at,
                            },
                        );
                    }
                }
            }
        }
        self.run_all_steps(now);
    }

    pub(super) fn started(
        &mut self,
        app: &str,
        id: ContainerId,
        result: Result<Vec<(ContainerId, String)>, Failure>,
        now: Now,
    ) {
        self.busy.remove(app);
        let spec = self.cares.get(&id).map(|care| care.container.spec);
        match result {
            Ok(names) => {
                for (named, name) in names {
                    if let Some(care) = self.cares.get_mut(&named) {
                        care.container.name = name;
                    }
                }
                if let Some(care) = self.cares.get_mut(&id) {
                    care.running = true;
                    care.since = now.mono;
                    care.ended = None;
                    care.health = match care.container.health_check {
                        Some(_) => HealthStatus::Starting,
                        None => HealthStatus::None,
                    };
                }
                let unnamed = self.cares.get(&id).is_some_and(|care| care.container.name != app);
                // A start writes nothing to the disk, its name does: with the bytes that are kept for that the step is done once more.
                if !(unnamed && self.flying(app).is_some() && self.files.give_room()) {
                    self.step_was_started(app);
                }
                self.out.push(Out::Watch(id));
                self.answer(app, Ok(()));
            }
            Err(failure) => {
                self.answer(app, Err(failure.cause.clone()));
                if failure.gone {
                    // Somebody removed it. Where the version is not on trial it is made again.
                    self.cares.remove(&id);
                }
                let flying = self.flying(app).filter(|source| {
                    let back = self.state(*source) == Some(State::RollingBack) || self.is_alone(*source, app);
                    spec.is_some() && self.versions(*source, app, back).1 == spec
                });
                let text = format!("app `{app}` could not be started: {}", failure.cause.detail);
                match flying {
                    Some(source)
                        if failure.gone
                            && (self.state(source) == Some(State::RollingBack) || self.is_alone(source, app)) => {}
                    Some(source) => self.start_failed(source, app, &failure, now),
                    None if failure.gone => self.revive(app, now),
                    None if self.desired(app).map(|(_, wanted)| wanted) == spec => {
                        self.after_end(app, id, Ending::NotStarted, None, text, now);
                    }
                    None => {}
                }
            }
        }
        self.run_all_steps(now);
        for source in Source::ALL {
            self.check_probe(source, now);
            self.check_soak(source, now);
        }
    }

    /// Stops and starts an app by command.
    pub(super) fn restart(&mut self, app: String, reply: Reply, now: Now) {
        let id = self.desired(&app).and_then(|(_, spec)| self.find(&app, &spec));
        let Some(id) = id else {
            return reply(Err(Cause::new(
                Reason::Schema,
                format!("no app `{app}` is managed here"),
            )));
        };
        let switching = self.flying(&app).and_then(|source| self.state(source));
        if self.busy.contains(&app) || matches!(switching, Some(State::Switching | State::RollingBack)) {
            return reply(Err(Cause::new(
                Reason::Busy,
                format!("app `{app}` is being started or stopped"),
            )));
        }
        self.starts.remove(&app);
        if let Some(care) = self.cares.get_mut(&id) {
            care.stopping = true;
            care.restarts.forget();
        }
        if let Some(older) = self.replies.insert(app.clone(), reply) {
            older(Err(Cause::new(Reason::Busy, "another restart took its place")));
        }
        self.busy.insert(app.clone());
        self.job(Job::Stop { app, id });
        for source in Source::ALL {
            self.check_soak(source, now);
        }
    }

    /// The stop that a restart began with is done.
    pub(super) fn restart_stopped(&mut self, app: &str, id: ContainerId, now: Now) {
        let spec = self.cares.get(&id).map(|care| care.container.spec);
        if self.desired(app).map(|(_, wanted)| wanted) == spec && spec.is_some() {
            self.start_job(app, id);
        } else {
            let cause = Cause::new(Reason::Busy, format!("app `{app}` is being updated"));
            self.answer(app, Err(cause));
            self.revive(app, now);
        }
    }

    fn answer(&mut self, app: &str, result: Result<(), Cause>) {
        if let Some(reply) = self.replies.remove(app) {
            reply(result);
        }
    }

    /// When a run began, in this process's time.
    pub(super) fn mono_of(at: Unix, now: Now) -> Mono {
        Mono(now.mono.0.saturating_sub(now.unix.0.saturating_sub(at.0)))
    }
}

impl Care {
    /// The container's status in podman's words.
    pub(super) fn status(&self) -> &'static str {
        use crate::types::container::Status;
        match (self.running, self.ended) {
            (true, _) if self.stopping => Status::Stopping.as_str(),
            (true, _) => Status::Running.as_str(),
            (false, Some(_)) => Status::Exited.as_str(),
            (false, None) => Status::Created.as_str(),
        }
    }
}
