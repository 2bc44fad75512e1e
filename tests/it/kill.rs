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

/// Points of an update that starts the new version beside the old one.
const BESIDE: &[&str] = &[
    "create-after",
    "journal-switching-after",
    "start-before",
    "start-after",
    "rename-away-before",
    "rename-away-after",
    "rename-in-before",
    "rename-in-after",
    "stop-before",
    "stop-after",
    "journal-soaking-half",
    "set-commit-after",
    "history-final-half",
    "remove-before",
    "remove-after",
];

/// Points of a removal.
const REMOVED: &[&str] = &[
    "journal-staged-half",
    "set-next-after",
    "journal-switching-after",
    "stop-before",
    "stop-after",
    "set-commit-before",
    "set-commit-after",
    "history-final-after",
    "journal-final-half",
    "remove-before",
    "remove-after",
];

/// Points of a set that is what runs.
const UNCHANGED: &[&str] = &[
    "journal-accepted-before",
    "journal-accepted-after",
    "history-final-before",
    "history-final-half",
    "history-final-after",
    "journal-final-before",
    "journal-final-half",
    "journal-final-after",
];

/// Points of a deployment that waits, and of one that takes its place.
const SUPERSEDED: &[&str] = &[
    "journal-waiting-before",
    "journal-waiting-half",
    "journal-waiting-after",
    "history-final-before",
    "history-final-half",
    "history-final-after",
    "journal-final-before",
    "journal-final-half",
    "journal-final-after",
    "journal-accepted-half:2",
    "fetch-before",
];

/// Points of an update that saves a volume, forward and back.
const SAVED: &[&str] = &[
    "journal-save-before",
    "journal-save-half",
    "journal-save-after",
    "save-before",
    "save-after",
    "forget-before",
    "restore-before",
    "restore-after",
];

/// Points of a way back that does not succeed either.
const NOT_RESTORED: &[&str] = &[
    "journal-rolling-back-before",
    "journal-rolling-back-half",
    "journal-rolling-back-after",
    "history-quarantine-half",
    "stop-after:2",
    "start-before:2",
    "start-after:2",
    "rename-in-after:2",
    "history-final-half",
    "journal-final-half",
    "set-drop-before",
    "set-drop-after",
];

struct Trial {
    device: Device,
    images: [String; 2],
    /// Which of the two images runs.
    current: usize,
    count: u32,
    /// The app of the last document.
    last: Value,
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
            last: Value::Null,
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
        self.last = json!({
            "name": "web", "image": self.images[image], "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
            "env": {"N": self.count.to_string()},
            "health": {"exec": [health], "interval": "100ms", "start_interval": "100ms", "failures": 2},
            "update": {"soak": "300ms"},
        });
        self.last.clone()
    }

    fn stop_agent(&mut self) {
        if let Some(mut agent) = self.device.agent.take() {
            agent.signal("TERM");
            agent.wait(Duration::from_secs(20));
        }
    }

    /// Runs an update with the agent's variable set; gives the activity and whether the agent came to the point.
    fn update(&mut self, point: &str, good: bool, act: impl Fn(&Device)) -> (String, bool) {
        let app = self.app(1 - self.current, if good { "/bin/true" } else { "/bin/false" });
        self.stop_agent();
        self.device.start_with(|c| c.env(VARIABLE, point));
        let activity = self.device.deploy(json!([app]));
        let reached = self.until(point, &activity, act);
        (activity, reached)
    }

    /// Waits until the agent comes to the point, or the deployment to its end; whether it was the point.
    fn until(&mut self, point: &str, activity: &str, act: impl Fn(&Device)) -> bool {
        let began = Instant::now();
        let mut ended: Option<Instant> = None;
        loop {
            let agent = self.device.agent.as_mut().unwrap();
            let pid = agent.pid();
            if !agent.runs() {
                return true;
            }
            if stands_still(pid) {
                act(&self.device);
                child::signal(pid, "CONT");
                return true;
            }
            if self.final_state(activity).is_some() {
                // What is left of the old version is removed after the end was told.
                let later = ended.get_or_insert_with(Instant::now);
                let may_come = ["remove", "forget"].iter().any(|word| point.starts_with(word));
                if !may_come || later.elapsed() > Duration::from_secs(5) {
                    return false;
                }
            }
            let output = || self.device.agent.as_ref().unwrap().output();
            assert!(began.elapsed() < LONG, "{point}: no end\n{}", output());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn final_state(&self, activity: &str) -> Option<String> {
        let last = self.device.states(activity).pop()?;
        ["COMMITTED", "ROLLED_BACK", "FAILED"]
            .contains(&last.as_str())
            .then_some(last)
    }

    /// Starts an agent that is not to die, waits for the end, and looks.
    fn settle(&mut self, point: &str, activity: &str, good: bool) {
        let state = self.ended(point, activity);
        let committed = state == "COMMITTED";
        assert!(good || !committed, "{point}: a bad version was committed");
        if committed {
            self.current = 1 - self.current;
        }
        let expected = [format!("web {}", self.images[self.current])];
        self.runs(&format!("{point}, ended {state}"), &expected);
    }

    /// Starts an agent that is not to die, and waits for the end of the deployment.
    fn ended(&mut self, point: &str, activity: &str) -> String {
        if !self.device.agent.as_mut().is_some_and(|a| a.runs()) {
            self.device.agent = None;
            self.device.start();
        }
        let began = Instant::now();
        loop {
            if let Some(state) = self.final_state(activity) {
                return state;
            }
            let output = self.device.agent.as_ref().unwrap().output();
            assert!(began.elapsed() < LONG, "{point}: no final state\n{output}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until just these run, and nothing is left beside them.
    fn runs(&self, point: &str, expected: &[String]) {
        let began = Instant::now();
        let mut running = Vec::new();
        // A container that was just killed is started again with a short wait.
        while began.elapsed() < LONG {
            running = self.device.running();
            let all = self.device.dunlin().args(["ps", "-a", "-q"]).ok();
            if running == expected && all.lines().count() == expected.len() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let all = self.device.dunlin().args(["ps", "-a"]).ok();
        let output = self.device.agent.as_ref().unwrap().output();
        panic!("{point}: runs {running:?}, expected {expected:?}\n{all}\n{output}");
    }

    /// Sends these apps to an agent that is to die at the point; the activity, and whether it came to it.
    fn send(&mut self, point: &str, apps: Value) -> (String, bool) {
        self.stop_agent();
        self.device.start_with(|c| c.env(VARIABLE, point));
        let activity = self.device.deploy(apps);
        let reached = self.until(point, &activity, |_| {});
        (activity, reached)
    }

    /// One good update, with nobody killed.
    fn renew(&mut self) {
        if !self.device.agent.as_mut().is_some_and(|a| a.runs()) {
            self.device.agent = None;
            self.device.start();
        }
        let app = self.app(1 - self.current, "/bin/true");
        let activity = self.device.deploy(json!([app]));
        self.settle("nobody killed", &activity, true);
    }

    /// A new version that starts beside the old one.
    fn beside(&mut self, point: &str) -> bool {
        let mut app = self.app(1 - self.current, "/bin/true");
        app["update"]["strategy"] = json!("start-first");
        self.last = app.clone();
        let (activity, reached) = self.send(point, json!([app]));
        self.settle(point, &activity, true);
        reached
    }

    /// The app goes.
    fn removed(&mut self, point: &str) -> bool {
        let (activity, reached) = self.send(point, json!([]));
        assert_eq!(self.ended(point, &activity), "COMMITTED", "{point}");
        self.runs(point, &[]);
        self.renew();
        reached
    }

    /// The same set once more.
    fn unchanged(&mut self, point: &str) -> bool {
        let pid = self.device.pid("web");
        let (activity, reached) = self.send(point, json!([self.last]));
        assert_eq!(self.ended(point, &activity), "COMMITTED", "{point}");
        self.runs(point, &[format!("web {}", self.images[self.current])]);
        assert_eq!(self.device.pid("web"), pid, "{point}: it was not restarted");
        reached
    }

    /// A document that waits for its window, and a newer one that takes its place.
    fn superseded(&mut self, point: &str) -> bool {
        self.stop_agent();
        self.device.start_with(|c| c.env(VARIABLE, point));
        let app = self.app(1 - self.current, "/bin/true");
        let mut document = self.device.document(json!([app]));
        document["rollout"] = json!({"id": "later", "not_before": "2099-01-01T00:00:00Z"});
        let first = self.device.publish(document);
        let began = Instant::now();
        while self.device.agent.as_mut().unwrap().runs() && !self.device.states(&first).contains(&"WAITING".to_owned())
        {
            assert!(began.elapsed() < LONG, "{point}: it does not wait");
            std::thread::sleep(Duration::from_millis(5));
        }
        let app = self.app(1 - self.current, "/bin/true");
        let second = self.device.deploy(json!([app]));
        let reached = self.until(point, &second, |_| {});
        self.settle(point, &second, true);
        reached
    }

    /// An update that saves its volume; a bad one brings it back.
    fn saved(&mut self, point: &str) -> bool {
        let with_volume = |mut app: Value| {
            app["volumes"] = json!(["data:/data"]);
            app["update"]["volumes"] = json!("snapshot");
            app
        };
        if self.last["volumes"].is_null() {
            let app = with_volume(self.app(1 - self.current, "/bin/true"));
            self.last = app.clone();
            let activity = self.device.deploy(json!([app]));
            self.settle("nobody killed", &activity, true);
        }
        let good = !point.starts_with("restore");
        let app = with_volume(self.app(1 - self.current, if good { "/bin/true" } else { "/bin/false" }));
        self.last = app.clone();
        let (activity, reached) = self.send(point, json!([app]));
        self.settle(point, &activity, good);
        reached
    }

    /// A bad version, and an old one that is well only the first time it runs.
    fn not_restored(&mut self, point: &str) -> bool {
        // It is not well before it has looked, and what says so is gone with its memory.
        let once = "test -e /ran && exit 1; touch /ran /dev/shm/well; trap 'exit 0' TERM; sleep 100000 & wait";
        let mut old = self.app(1 - self.current, "/bin/true");
        old["health"]["exec"] = json!(["test", "-e", "/dev/shm/well"]);
        old["command"] = json!(["sh", "-c", once]);
        old["restart"] = json!({"policy": "no"});
        if !self.device.agent.as_mut().is_some_and(|a| a.runs()) {
            self.device.agent = None;
            self.device.start();
        }
        let activity = self.device.deploy(json!([old]));
        self.settle("nobody killed", &activity, true);
        let bad = self.app(1 - self.current, "/bin/false");
        let (activity, reached) = self.send(point, json!([bad]));
        assert_eq!(self.ended(point, &activity), "FAILED", "{point}");
        let record = self.device.wait_state(&activity, "FAILED");
        assert_eq!(record["reason"]["code"], "rollback_failed", "{point}: {record}");
        self.renew();
        reached
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
    type Way = fn(&mut Trial, &str) -> bool;
    let ways: [(&str, Way, &[&str]); 6] = [
        ("beside", Trial::beside, BESIDE),
        ("removed", Trial::removed, REMOVED),
        ("unchanged", Trial::unchanged, UNCHANGED),
        ("superseded", Trial::superseded, SUPERSEDED),
        ("not restored", Trial::not_restored, NOT_RESTORED),
        ("saved", Trial::saved, SAVED),
    ];
    for (way, go, points) in ways {
        for point in points {
            assert!(go(&mut trial, point), "{way}: `{point}` was not reached");
            reached.insert(format!("{point} {way}"));
        }
    }
    println!("killed at {} points", reached.len());
    let met = |point: &&&str| reached.iter().any(|one| one.split([' ', ':']).next() == Some(**point));
    let missed: Vec<_> = POINTS.iter().filter(|point| !met(point)).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}, of {reached:#?}");
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
