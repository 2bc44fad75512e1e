//! The demo: a device takes updates over MQTT, proves them healthy, and goes back when one is not.
//!
//! Everything is made on the spot: a two-architecture image, a read-only registry, a broker, a fleet key. The agent is
//! the real one, its own process in a scratch folder that is gone at the end. The demo's executable holds dunlin's own
//! `main`, so that the agent and its helpers are this same file called by the name `dunlin`.
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod broker;
#[path = "../../src/main.rs"]
mod dunlin_main;
mod image;
mod registry;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dunlin::fleet::sign;
use dunlin::types::deployment::State;
use dunlin::types::digest::Digest;
use dunlin::types::document::{Deploy, Desired};
use dunlin::types::time::Unix;
use dunlin::uplink::dsse::SigningKey;

const DEVICE: &str = "demo";
const OK: &str = "demo: ok: v1 ran, v2 committed, v3 rolled back to v2";

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let mine = std::env::current_exe().unwrap_or_default();
    let name = |p: &Path| {
        p.file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    if name(Path::new(&called)) == "dunlin" || name(&mine) == "dunlin" {
        return dunlin_main::main();
    }
    match Demo::prepare(&mine).and_then(|mut demo| {
        let result = demo.run();
        let cleaned = demo.clean();
        result.and(cleaned)
    }) {
        Ok(()) => {
            println!("{OK}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("demo: failed: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Demo {
    scratch: PathBuf,
    dunlin: PathBuf,
    agent: Option<Child>,
    operator: broker::Operator,
    registry: std::net::SocketAddr,
    images: Vec<(&'static str, Digest)>,
    key: SigningKey,
    began: Instant,
    generation: u64,
}

fn say(began: Instant, text: &str) {
    println!("{:>6.2} s  {text}", began.elapsed().as_secs_f64());
}

fn bold(text: &str) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if colour {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

impl Demo {
    fn prepare(mine: &Path) -> Result<Demo, String> {
        let began = Instant::now();
        let scratch = std::env::temp_dir().join(format!("dunlin-demo-{}", std::process::id()));
        let make = |dir: &Path| std::fs::create_dir_all(dir).map_err(|e| format!("make `{}`: {e}", dir.display()));
        make(&scratch.join("bin"))?;
        make(&scratch.join("apps"))?;
        let dunlin = scratch.join("bin/dunlin");
        std::fs::copy(mine, &dunlin).map_err(|e| format!("copy the executable: {e}"))?;

        say(began, "compile the app for amd64 and arm64, make images of it");
        let programs = image::compile(&scratch)?;
        let mut store = image::Images::default();
        let mut images = Vec::new();
        for (tag, healthy) in [("v1", true), ("v2", true), ("v3", false)] {
            images.push((tag, store.add(tag, &programs, healthy)?));
        }
        let registry = registry::serve(store).map_err(|e| format!("registry: {e}"))?;
        let broker = broker::start()?;
        let key = SigningKey::generate("demo-operator").map_err(|e| e.to_string())?;
        say(
            began,
            &format!("registry on {registry}, broker on {broker}, fleet key `demo-operator`"),
        );

        let config = format!(
            "[device]\nname = \"{DEVICE}\"\n[mqtt]\nurl = \"mqtt://{broker}\"\n[apps]\ndir = \"{}\"\nprobe_timeout = \"5s\"\n{}",
            scratch.join("apps").display(),
            sign::public_toml(&key),
        );
        std::fs::write(scratch.join("agent.toml"), config).map_err(|e| e.to_string())?;
        let operator = broker::Operator::connect(broker, DEVICE)?;
        let generation = now().seconds();
        let mut demo = Demo {
            scratch,
            dunlin,
            agent: None,
            operator,
            registry,
            images,
            key,
            began,
            generation,
        };
        let agent = demo.dunlin(&["agent"]);
        demo.agent = Some(agent.map_err(|e| format!("start the agent: {e}"))?);
        Ok(demo)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.dunlin);
        let dir = |name: &str| self.scratch.join(name);
        command.arg("--root").arg(dir("data")).arg("--runroot").arg(dir("run"));
        command
            .arg("--config")
            .arg(dir("agent.toml"))
            .args(args)
            .stdin(Stdio::null());
        command
    }

    fn dunlin(&self, args: &[&str]) -> std::io::Result<Child> {
        let log = std::fs::File::create(self.scratch.join("agent.log"))?;
        self.command(args).stdout(Stdio::null()).stderr(log).spawn()
    }

    fn run(&mut self) -> Result<(), String> {
        self.wait_for_presence()?;
        for (at, expected) in [(0, State::Committed), (1, State::Committed), (2, State::RolledBack)] {
            let (tag, digest) = self.images[at];
            let word = if expected == State::Committed {
                "healthy"
            } else {
                "starts, but never becomes healthy"
            };
            say(self.began, &bold(&format!("operator publishes {tag} ({word})")));
            let activity = self.publish(digest)?;
            self.follow(&activity, expected)?;
            self.show_containers()?;
        }
        Ok(())
    }

    fn publish(&mut self, image: Digest) -> Result<String, String> {
        self.generation += 1;
        let activity = format!("demo-{}", self.generation);
        let text = serde_json::json!({
            "audience": format!("d/{DEVICE}"),
            "generation": self.generation,
            "activity": activity,
            "issued_at": now().rfc3339(),
            "apps": [{
                "name": "web",
                "image": format!("{}/demo/app@{image}", self.registry),
                "health": {
                    "http": {"port": 8080, "path": "/healthz"},
                    "interval": "500ms", "timeout": "1s", "start_interval": "100ms", "failures": 3,
                },
                "update": {"soak": "2s"},
            }],
        });
        let document: Desired = serde_json::from_value(text).map_err(|e| e.to_string())?;
        let keys = std::slice::from_ref(&self.key);
        let envelope = sign::desired(&document, keys).map_err(|e| e.to_string())?;
        self.operator
            .publish(&format!("dunlin/v1/d/{DEVICE}/desired"), envelope)?;
        Ok(activity)
    }

    fn wait_for_presence(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            self.check_agent()?;
            if let Some((topic, payload)) = self.operator.next(Duration::from_millis(200))
                && topic.ends_with("/presence")
            {
                say(
                    self.began,
                    &format!("device says: {}", String::from_utf8_lossy(&payload)),
                );
                return Ok(());
            }
        }
        Err(format!("the device did not appear\n{}", self.log()))
    }

    fn follow(&mut self, activity: &str, expected: State) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(40);
        let mut last = None;
        while Instant::now() < deadline {
            self.check_agent()?;
            let Some((topic, payload)) = self.operator.next(Duration::from_millis(200)) else {
                continue;
            };
            if !topic.ends_with("/deploy") {
                continue;
            }
            let deploy: Deploy = serde_json::from_slice(&payload).map_err(|e| format!("deploy: {e}"))?;
            let record = deploy.record;
            if record.activity != activity || last == Some(record.state) {
                continue;
            }
            last = Some(record.state);
            let reason = record.reason.map(|r| format!("  ({r})")).unwrap_or_default();
            say(self.began, &format!("    {}{reason}", record.state));
            if record.state == expected {
                return Ok(());
            }
            if record.state.is_final() {
                return Err(format!(
                    "expected {expected}, the device ended with {}\n{}",
                    record.state,
                    self.log()
                ));
            }
        }
        Err(format!("expected {expected}, nothing came in time\n{}", self.log()))
    }

    fn show_containers(&self) -> Result<(), String> {
        let output = self
            .command(&["ps", "--format", "{{.Names}}  {{.Image}}  {{.Status}}"])
            .output()
            .map_err(|e| format!("dunlin ps: {e}"))?;
        if !output.status.success() {
            return Err(format!("dunlin ps: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut running = 0;
        for line in text.lines() {
            let shown = self.images.iter().fold(line.to_owned(), |l, (tag, digest)| {
                l.replace(
                    &format!("{}/demo/app@{digest}", self.registry),
                    &format!("demo/app {tag}"),
                )
            });
            say(self.began, &format!("    runs: {shown}"));
            running += 1;
        }
        if running == 1 {
            Ok(())
        } else {
            Err(format!("{running} containers run, expected 1\n{}", self.log()))
        }
    }

    fn check_agent(&mut self) -> Result<(), String> {
        match self.agent.as_mut().map(|a| a.try_wait()) {
            Some(Ok(Some(status))) => {
                self.agent = None;
                Err(format!("the agent ended: {status}\n{}", self.log()))
            }
            _ => Ok(()),
        }
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.scratch.join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Ends what the demo started and removes what it wrote.
    fn clean(&mut self) -> Result<(), String> {
        let mut problems = Vec::new();
        if let Some(mut agent) = self.agent.take() {
            let pid = agent.id().to_string();
            let asked = Command::new("kill").args(["-TERM", &pid]).status();
            let deadline = Instant::now() + Duration::from_secs(10);
            while matches!(agent.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            if asked.is_err() || matches!(agent.try_wait(), Ok(None)) {
                problems.push("the agent did not end by itself".to_owned());
                let _ = agent.kill();
            }
            let _ = agent.wait();
        }
        // The apps' images are kept for a rollback; nothing is left to go back to.
        for pin in std::fs::read_dir(self.scratch.join("data/pins"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = std::fs::remove_file(pin.path());
        }
        // Removing the last container lets the keeper go; files of mapped ids are removed by its worker.
        for args in [&["rm", "-a", "-f", "-t", "1"][..], &["rmi", "-a", "-f"]] {
            match self.command(args).output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => problems.push(format!("dunlin {args:?}: {}", String::from_utf8_lossy(&output.stderr))),
                Err(error) => problems.push(format!("dunlin {args:?}: {error}")),
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.scratch) {
            problems.push(format!("remove `{}`: {error}", self.scratch.display()));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(format!("clean up: {}", problems.join("; ")))
        }
    }
}

fn now() -> Unix {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Unix(u64::try_from(since.as_millis()).unwrap_or(0))
}
