//! SIGKILL at every step of an update: of the agent at each kill point, of the keeper and of the monitors while the agent
//! stands still at each state. Afterwards every app is the old version or the new one, and nothing is left over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dunlin::deploy::kill::{POINTS, VARIABLE};
use serde_json::{Value, json};

use crate::device::{Device, LONG, Setup};
use crate::fixture::child;
use crate::fixture::images::{Format, Index};
use crate::skip;

/// Points of the agent that must be reached.
const LEAST: usize = 70;

struct Trial {
    device: Device,
    images: [String; 2],
    /// Which of the two images runs.
    current: usize,
    count: u32,
}

impl Trial {
    fn new(topic: &str) -> Result<Trial, String> {
        let device = Device::new(topic, &Setup::default())?;
        let image = |version: &str| {
            let labels = json!({"version": version});
            let index = Index::each(Format::Oci, |recipe| recipe.config("Labels", labels.clone()));
            device.registry.push("web", version, &index)
        };
        let images = [image("a"), image("b")];
        let mut trial = Trial {
            device,
            images,
            current: 0,
            count: 0,
        };
        trial.device.start();
        let first = trial.app(0, "/bin/true");
        let first = trial.device.deploy(json!([first]));
        trial.device.wait_state(&first, "COMMITTED");
        Ok(trial)
    }

    /// An app whose specification was never seen before.
    fn app(&mut self, image: usize, health: &str) -> Value {
        self.count += 1;
        json!({
            "name": "web", "image": self.images[image], "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
            "env": {"N": self.count.to_string()},
            "health": {"exec": [health], "interval": "100ms", "start_interval": "100ms", "failures": 2},
            "update": {"soak": "300ms"},
        })
    }

    fn stop_agent(&mut self) {
        if let Some(mut agent) = self.device.agent.take() {
            agent.signal("TERM");
            agent.wait(Duration::from_secs(20));
        }
    }

    /// Runs an update with the agent's variable set; gives the activity and whether the agent came to the point.
    fn update(&mut self, point: &str, good: bool, act: impl Fn(&Device)) -> (String, bool) {
        self.stop_agent();
        self.device.start_with(|c| c.env(VARIABLE, point));
        let app = self.app(1 - self.current, if good { "/bin/true" } else { "/bin/false" });
        let activity = self.device.deploy(json!([app]));
        let began = Instant::now();
        let reached = loop {
            let agent = self.device.agent.as_mut().unwrap();
            let pid = agent.pid();
            if !agent.runs() {
                break true;
            }
            if stands_still(pid) {
                act(&self.device);
                child::signal(pid, "CONT");
                break true;
            }
            if self.final_state(&activity).is_some() {
                break false;
            }
            let output = || self.device.agent.as_ref().unwrap().output();
            assert!(began.elapsed() < LONG, "{point}: no end\n{}", output());
            std::thread::sleep(Duration::from_millis(5));
        };
        (activity, reached)
    }

    fn final_state(&self, activity: &str) -> Option<String> {
        let last = self.device.states(activity).pop()?;
        ["COMMITTED", "ROLLED_BACK", "FAILED"]
            .contains(&last.as_str())
            .then_some(last)
    }

    /// Starts an agent that is not to die, waits for the end, and looks.
    fn settle(&mut self, point: &str, activity: &str, good: bool) {
        if !self.device.agent.as_mut().is_some_and(|a| a.runs()) {
            self.device.agent = None;
            self.device.start();
        }
        let began = Instant::now();
        let state = loop {
            if let Some(state) = self.final_state(activity) {
                break state;
            }
            let output = self.device.agent.as_ref().unwrap().output();
            assert!(began.elapsed() < LONG, "{point}: no final state\n{output}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let committed = state == "COMMITTED";
        assert!(good || !committed, "{point}: a bad version was committed");
        if committed {
            self.current = 1 - self.current;
        }
        let expected = [format!("web {}", self.images[self.current])];
        let mut running = Vec::new();
        // A container that was just killed is started again with a short wait.
        while began.elapsed() < LONG {
            running = self.device.running();
            let all = self.device.dunlin().args(["ps", "-a", "-q"]).ok();
            if running == expected && all.lines().count() == 1 {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let all = self.device.dunlin().args(["ps", "-a"]).ok();
        let output = self.device.agent.as_ref().unwrap().output();
        panic!("{point}: ended {state}; runs {running:?}, expected {expected:?}\n{all}\n{output}");
    }

    fn finish(mut self) {
        // The store is sound: both images still make containers.
        for image in self.images.clone() {
            self.device.dunlin().args(["run", "--rm", &image, "true"]).ok();
        }
        self.device.clean();
    }
}

fn stands_still(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

#[test]
fn an_agent_killed_at_any_point_leaves_the_old_version_or_the_new_one() {
    let mut trial = match Trial::new("kill-agent") {
        Ok(trial) => trial,
        Err(reason) => skip!("{reason}"),
    };
    let mut reached = BTreeSet::new();
    for point in POINTS {
        let (activity, died) = trial.update(point, true, |_| {});
        trial.settle(point, &activity, true);
        if died {
            reached.insert(format!("{point} forward"));
        }
        let back = [
            "rolling-back",
            "final",
            "quarantine",
            "stop",
            "rename",
            "start",
            "remove",
            "set-drop",
        ];
        if back.iter().any(|word| point.contains(word)) {
            let second = format!("{point}:2");
            let value = if point.contains("start") || point.contains("rename") {
                second.as_str()
            } else {
                point
            };
            let (activity, died) = trial.update(value, false, |_| {});
            trial.settle(value, &activity, false);
            if died {
                reached.insert(format!("{value} back"));
            }
        }
    }
    println!("killed at {} points", reached.len());
    assert!(reached.len() >= LEAST, "{} points: {reached:#?}", reached.len());
    trial.finish();
}

#[test]
fn a_keeper_or_monitors_killed_in_any_state_leave_the_old_version_or_the_new_one() {
    let mut trial = match Trial::new("kill-others") {
        Ok(trial) => trial,
        Err(reason) => skip!("{reason}"),
    };
    let states = [
        "fetching",
        "verifying",
        "staged",
        "switching",
        "probing",
        "soaking",
        "checkpoint",
        "rolling-back",
        "final",
    ];
    let mut reached = BTreeSet::new();
    for state in states {
        for victim in ["keeper", "monitor"] {
            let good = state != "rolling-back";
            let point = format!("journal-{state}-after@stop");
            let (activity, stood) = trial.update(&point, good, |device| {
                let victims = device.role(victim);
                assert!(!victims.is_empty(), "no {victim} at {point}");
                victims.into_iter().for_each(child::end);
            });
            // A monitor's end is a container's end: that may or may not spoil the new version, both are right.
            trial.settle(&format!("{victim} at {point}"), &activity, good);
            if stood {
                reached.insert(format!("{victim} at {state}"));
            }
        }
    }
    println!("killed at {} points", reached.len());
    assert_eq!(reached.len(), states.len() * 2, "{reached:#?}");
    trial.finish();
}
