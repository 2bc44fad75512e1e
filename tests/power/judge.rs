//! What must be true of a device after a boot, whatever the cut before it left.

use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::Value;

use super::device::{AGENTS, Device, LONG, Set, lap};
use super::fixture::broker::Watch;

/// Reboots in one deployment after which the device goes back by itself.
const MANY_REBOOTS: u32 = 3;

/// What a cut may leave, and the agent removes.
const LEFTOVERS: [&str; 4] = [
    "is left over from a process that died",
    "is left over from a write that was cut off",
    "leads nowhere",
    "no image has it",
];

impl Device<'_> {
    /// The containers there are: name, state, specification.
    fn containers(&mut self) -> Result<Vec<[String; 3]>, String> {
        let (text, _) = self.ask("apps")?;
        let line = |line: &str| {
            let (name, rest) = line.split_once(' ')?;
            let (state, labels) = rest.split_once(' ')?;
            let spec = labels.split(',').find_map(|label| label.strip_prefix("dunlin.spec="))?;
            Some([name.to_owned(), state.to_owned(), spec.to_owned()])
        };
        let mut found: Vec<[String; 3]> = text.lines().filter_map(line).collect();
        found.sort();
        Ok(found)
    }

    /// Everything that must be true after a boot.
    pub fn verify(&mut self, offline: bool) -> Result<String, String> {
        let mut clock = Instant::now();
        let began = Instant::now();
        if !self.committed.is_empty() {
            self.all_run(offline)?;
        }
        let all_run = began.elapsed();
        lap(&mut clock, &mut self.spent.up);
        if offline {
            let now = UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
            self.ask(&format!("online {now}"))?;
        }
        let end = self.proper_end()?;
        lap(&mut clock, &mut self.spent.end);
        self.runs_as_committed()?;
        self.is_sound()?;
        self.reports_truly()?;
        let agent = self.one_agent()?;
        lap(&mut clock, &mut self.spent.judged);
        let (machine, watch) = self.machine.as_ref().ok_or("no machine runs")?;
        if let Some(line) = machine.output().lines().find(|line| {
            line.contains("no slot could be read") || line.contains("is damaged") || line.contains("panicked")
        }) {
            return Err(format!("the agent said: {line}"));
        }
        let seqs = seqs(watch);
        if !seqs.is_sorted() || seqs.first().is_some_and(|first| *first < self.seq) {
            return Err(format!("sequence numbers went back: {seqs:?} after {}", self.seq));
        }
        let whole = began.elapsed();
        Ok(format!(
            "{end}, all ran after {:.1} s, looked at in {:.1} s, agent {agent}",
            all_run.as_secs_f64(),
            whole.as_secs_f64()
        ))
    }

    /// Waits until each app runs, in the old version or in the new one; offline the set must be one or the other.
    fn all_run(&mut self, offline: bool) -> Result<(), String> {
        let end = Instant::now() + LONG;
        self.ask(&format!("up {}", self.committed.len()))?;
        loop {
            let found = self.containers()?;
            let running: Set = found
                .iter()
                .filter(|[_, state, _]| state == "running")
                .map(|[name, _, spec]| (name.clone(), spec.clone()))
                .collect();
            let coming = self.flight.as_ref().map_or(&self.committed, |flight| &flight.set);
            let known = |(name, spec): (&String, &String)| {
                [&self.committed, coming].iter().any(|set| set.get(name) == Some(spec))
            };
            let whole = running == self.committed || running == *coming;
            let each = running.len() == self.committed.len() && running.iter().all(known);
            if whole || each && !offline {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!(
                    "not all apps run as old or new: {found:?}, old {:?}, new {coming:?}",
                    self.committed
                ));
            }
            std::thread::sleep(Duration::from_millis(700));
        }
    }

    /// Waits until the deployment that was cut is at its end, and takes over what it committed.
    fn proper_end(&mut self) -> Result<String, String> {
        let Some(flight) = self.flight.take() else {
            return Ok("nothing was under way".to_owned());
        };
        let record = self.wait("the deployment's end", |_, watch| {
            let last = deploys(watch)
                .into_iter()
                .rfind(|record| record["activity"] == flight.activity)?;
            is_final(last["state"].as_str()?).then_some(last)
        });
        let record = match record {
            Ok(record) => record,
            Err(fault) => {
                self.flight = Some(flight);
                return Err(fault);
            }
        };
        let code = record["reason"]["code"].as_str().unwrap_or("");
        let state = record["state"].as_str().unwrap_or("");
        let tired = code == "reboots" && flight.cuts >= MANY_REBOOTS;
        let right = match (flight.good, state) {
            (true, "COMMITTED") => true,
            (true, "ROLLED_BACK") => tired,
            (false, "ROLLED_BACK") => tired || ["unhealthy", "probe_timeout"].contains(&code),
            _ => false,
        };
        if !right {
            return Err(format!(
                "a {} version ended so: {record}",
                if flight.good { "good" } else { "bad" }
            ));
        }
        if state == "COMMITTED" {
            self.committed = flight.set;
        }
        Ok(state.to_owned())
    }

    /// Waits until exactly the committed set runs and nothing is left beside it.
    fn runs_as_committed(&mut self) -> Result<(), String> {
        let wanted: Vec<[String; 3]> = self
            .committed
            .iter()
            .map(|(name, spec)| [name.clone(), "running".to_owned(), spec.clone()])
            .collect();
        let end = Instant::now() + LONG / 2;
        loop {
            let found = self.containers()?;
            if found == wanted {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("there is {found:?}, wanted {wanted:?}"));
            }
            std::thread::sleep(Duration::from_millis(400));
        }
    }

    /// Waits until the check finds nothing: what a cut left over is removed by the agent, a while after its start.
    fn is_sound(&mut self) -> Result<(), String> {
        let end = Instant::now() + LONG / 6;
        loop {
            let (said, code) = self.ask("d system check")?;
            if code == 0 {
                return Ok(());
            }
            if Instant::now() > end || !LEFTOVERS.iter().any(|leftover| said.contains(leftover)) {
                return Err(format!("`system check` ended with {code}:\n{said}"));
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// Waits until the agent that runs is the old version or the new one, healthy, and no trial is left; its version.
    fn one_agent(&mut self) -> Result<String, String> {
        let end = Instant::now() + LONG;
        loop {
            let (said, _) = self.ask("d explain --format json")?;
            let begin = said.find('{').unwrap_or(0);
            let told: Value = serde_json::from_str(said[begin..].trim()).unwrap_or_default();
            let agent = &told["Agent"];
            if agent["ready"] == true && agent["trial"] == false && agent["broker"] == true {
                let version = agent["agent"].as_str().unwrap_or("?").to_owned();
                let known = AGENTS.contains(&version.as_str()) || version == env!("CARGO_PKG_VERSION");
                return if known {
                    Ok(version)
                } else {
                    Err(format!("agent {version} runs"))
                };
            }
            if Instant::now() > end {
                return Err(format!("no agent stays: {said}"));
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// Waits until what the device reported last is what runs.
    fn reports_truly(&self) -> Result<(), String> {
        let told = self.wait("the report to be what runs", |_, watch| {
            (running(watch)? == self.committed).then_some(())
        });
        told.map_err(|fault| {
            let (_, watch) = self.machine.as_ref().expect("it was just waited for");
            let last = watch
                .messages()
                .into_iter()
                .rfind(|message| message.topic.ends_with("/reported"));
            let last = last.map(|message| String::from_utf8_lossy(&message.payload).into_owned());
            format!("{fault}; wanted {:?}, the last was {last:?}", self.committed)
        })
    }
}

pub(super) fn is_final(state: &str) -> bool {
    ["COMMITTED", "ROLLED_BACK", "FAILED", "REJECTED", "SUPERSEDED"].contains(&state)
}

/// The deployment records of this boot, oldest first; what the broker kept from before is not among them.
fn deploys(watch: &Watch) -> Vec<Value> {
    let messages = watch.messages().into_iter();
    messages
        .filter(|message| message.topic.ends_with("/deploy") && !message.retained)
        .filter_map(|message| serde_json::from_slice(&message.payload).ok())
        .collect()
}

/// The apps that run by the last report of this boot.
fn running(watch: &Watch) -> Option<Set> {
    let last = watch
        .messages()
        .into_iter()
        .rfind(|message| message.topic.ends_with("/reported"))?;
    if last.retained {
        return None;
    }
    let value: Value = serde_json::from_slice(&last.payload).ok()?;
    let running = value["apps"]
        .as_array()?
        .iter()
        .filter(|app| app["status"] == "running");
    running
        .map(|app| Some((app["name"].as_str()?.to_owned(), app["spec"].as_str()?.to_owned())))
        .collect()
}

/// States of a deployment in the order in which the agent on the console said them.
pub(super) fn states<'a>(said: &'a str, activity: &str) -> impl Iterator<Item = &'a str> {
    let begin = format!("deployment {activity} of ");
    // The last line may be cut off anywhere.
    let whole = said.rsplit_once('\n').map_or("", |(lines, _)| lines);
    whole.lines().filter_map(move |line| {
        let (_, rest) = line.split_once(&begin)?;
        rest.split_once(": ")?.1.split_whitespace().next()
    })
}

pub(super) fn last_state<'a>(said: &'a str, activity: &str) -> Option<&'a str> {
    states(said, activity).last()
}

pub(super) fn seqs(watch: &Watch) -> Vec<u64> {
    deploys(watch)
        .iter()
        .filter_map(|record| record["seq"].as_u64())
        .collect()
}
