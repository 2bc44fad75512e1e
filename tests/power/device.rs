//! A device that loses its power: a machine with a disk that outlives it, a broker, and what must be true after each boot.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use dunlin::types::app::App;
use serde_json::json;

use super::fixture::arch::Arch;
use super::fixture::booted::{Booted, stand_in};
use super::fixture::broker::{Broker, Watch};
use super::fixture::cmd::as_version;
use super::fixture::images::{Blob, Compression, Format, Index};
use super::fixture::registry::Registry;
use super::fixture::scratch::Scratch;
use super::fixture::tree::Tree;
use super::fixture::vm::{HOST, Running, Vm, answer_to, make_disk};
use super::judge::{is_final, last_state, seqs, states};
use super::plan::{Clock, Cut, Moment, Phase};

/// What the guest can do when it is asked: lines of a number and a command.
const SCRIPT: &str = r#"
    exec </dev/console
    stty -echo
    # pause SECONDS: without a process, which is dear under emulation.
    mkfifo /tmp/never && exec 9<>/tmp/never
    pause() { read -r -t $1 _ <&9; }
    d() { as dunlin dunlin --root /disk/store --runroot /tmp/drun --config /etc/agent.toml "$@"; }
    agent() {
        as dunlin dunlin --root /disk/store --runroot /tmp/drun --config /etc/agent.toml agent &
        agent=$!
    }
    # boot TIME OFFLINE BROKER REGISTRY: from the disk on, all that a device's boot is.
    boot() {
        date -s @$1 >/dev/null
        disk
        [ $2 = 0 ] || ip link set eth0 down
        printf '%s\n' "[device]" "name='vm'" "[mqtt]" "url='mqtt://HOST:$3'" "insecure=true" "[apps]" "probe_timeout='60s'" \
            "[store]" "reserve='1M'" "[registry]" "insecure=['HOST:$4']" >/etc/agent.toml
        mkdir -p /tmp/drun && chown dunlin:dunlin /tmp/drun && chmod 700 /tmp/drun
        [ -d /disk/store ] || as dunlin mkdir -m 700 /disk/store
        delegated dunlin keeper --root /disk/store --runroot /tmp/drun --unit &
        while ! [ -S /tmp/drun/keeper.sock ]; do pause 0.05; done
        agent
        echo "vm: agent"
    }
    # The agent's end and a new one that stands still at a kill point; says when it does.
    armed() {
        kill -TERM $agent && wait $agent
        export DUNLIN_KILL_POINT=$1@stop
        agent
        unset DUNLIN_KILL_POINT
        (while read -r _ _ state _ <"/proc/$agent/stat" && [ "$state" != T ]; do pause 0.05; done; echo "vm: stands") &
    }
    # online TIME: a time server is the first that it reaches.
    online() { date -s @$1 >/dev/null; ip link set eth0 up && ip route add default via 10.0.2.2; }
    apps() { d ps -a --noheading --format '{{.Names}} {{.State}} {{.Labels}}'; }
    # up N: until there are so many containers; asking dunlin itself would cost the machine much of its time.
    up() {
        for _ in $(seq 1500); do
            set -- $1 /sys/fs/cgroup/dunlin/c-*
            [ $# -gt $1 ] && return
            pause 0.1
        done
    }
    # The kernel takes in what is given to its random numbers when they are older than half its uptime.
    sleep 5
    echo "vm: ready"
    while read -r number line; do eval "$line"; echo "vm: done $number $?"; done
"#;

/// In the guest, when something is wrong.
const WITNESS: &str = r#"cat /proc/uptime; apps; for t in $(pidof dunlin | sed 's/\([0-9]*\)/\/proc\/\1\/task\/*/g'); do echo "$t $(cut -d ' ' -f 2-3 $t/stat) $(cat $t/wchan) $(cut -d ' ' -f 1-3 $t/syscall)"; done; echo "vm: witnessed""#;

/// Apps whose versions go together, and one that never changes.
const TOGETHER: [&str; 2] = ["db", "web"];
const STILL: &str = "still";

const IMAGES: usize = 4;

/// Size of the disk, MiB.
const DISK: u32 = 256;

/// From boot to what must be true by then, on a busy host without hardware help.
pub(super) const LONG: Duration = Duration::from_secs(240);

/// How long a kill point is waited for after the deployment's end.
const AFTER_THE_END: Duration = Duration::from_secs(3);

/// Name and specification of each app.
pub(super) type Set = BTreeMap<String, String>;

/// Images in the registry, each with a layer of its own.
pub fn images(registry: &Registry) -> Vec<String> {
    let noise = |seed: u64| {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        move |bytes: usize| -> Vec<u8> { (0..bytes).map(|_| next()).collect() }
    };
    let push = |number: usize| {
        let mut noise = noise(number as u64 + 1);
        let mut tree = Tree::new().dir("own").file("own/big", 0o644, noise(300_000));
        for file in 0..20 {
            tree = tree.file(&format!("own/{file}"), 0o640, noise(3000));
        }
        let layer = tree.finish();
        let compression = [Compression::Gzip, Compression::Zstd][number % 2];
        let index = Index::each(Format::Oci, |recipe| recipe.layer(layer.clone(), compression));
        let pushed = registry.push("app", &number.to_string(), &index);
        let digest = pushed.rsplit_once('@').unwrap().1;
        format!("{HOST}:{}/app@{digest}", registry.port())
    };
    (0..IMAGES).map(push).collect()
}

/// Versions of the agent that take turns.
pub(super) const AGENTS: [&str; 2] = ["0.1.1", "0.1.2"];

/// Puts the program under test into the registry as other versions of itself.
pub fn agents(registry: &Registry, program: &Path) {
    let config = Blob::new("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    registry.put_blob("agent", &config);
    for version in AGENTS {
        let bytes = as_version(std::fs::read(program).unwrap(), version);
        let blob = Blob::new("application/octet-stream", bytes);
        registry.put_blob("agent", &blob);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(), "layers": [blob.descriptor()],
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        registry.put_manifest(
            "agent",
            version,
            &Blob::new("application/vnd.oci.image.manifest.v1+json", manifest),
        );
    }
}

/// The machine up to where it would look at its disk: nothing on it depends on that one's content, so each boot but a few begins there.
pub fn booted(arch: Arch) -> Result<Booted, String> {
    let scratch = Scratch::new("powercut");
    let disk = scratch.join("disk");
    stand_in(&disk, DISK.into());
    let vm = Vm::new(arch)?.dunlin()?.lean().net().cpus(1).memory(384);
    let vm = vm.disk(&disk).late().timeout(Duration::from_secs(3600));
    vm.booted(&SCRIPT.replace("HOST", HOST))
}

/// A deployment that was cut.
pub(super) struct Flight {
    pub(super) activity: String,
    pub(super) set: Set,
    pub(super) good: bool,
    /// Cuts since it was sent.
    pub(super) cuts: u32,
}

/// Where the time of cuts went.
#[derive(Debug, Default, Clone, Copy)]
pub struct Spent {
    /// Up to the cut.
    pub until: Duration,
    /// From power to the agent's start.
    pub boot: Duration,
    /// Until all apps run.
    pub up: Duration,
    /// Until the deployment is over.
    pub end: Duration,
    /// Until all is looked at.
    pub judged: Duration,
}

impl Spent {
    pub fn parts(self) -> [Duration; 5] {
        [self.until, self.boot, self.up, self.end, self.judged]
    }
}

pub(super) fn lap(clock: &mut Instant, sum: &mut Duration) {
    *sum += clock.elapsed();
    *clock = Instant::now();
}

pub struct Device<'a> {
    booted: &'a Booted,
    registry: &'a Registry,
    images: &'a [String],
    broker: Broker,
    disk: PathBuf,
    /// The machine, and who hears what it publishes.
    pub(super) machine: Option<(Running, Watch)>,
    /// What was committed last.
    pub(super) committed: Set,
    pub(super) flight: Option<Flight>,
    count: usize,
    generation: u64,
    pub(super) seq: u64,
    /// Updates of the agent.
    agents: usize,
    /// Lines typed.
    said: u64,
    /// Where the time went.
    pub spent: Spent,
    _scratch: Scratch,
}

impl<'a> Device<'a> {
    /// A device with an empty disk that was not started yet.
    pub fn new(booted: &'a Booted, registry: &'a Registry, images: &'a [String]) -> Device<'a> {
        let scratch = Scratch::new("powercut");
        let disk = scratch.join("disk");
        make_disk(&disk, DISK);
        Device {
            booted,
            registry,
            images,
            broker: Broker::plain(),
            disk,
            machine: None,
            committed: Set::new(),
            flight: None,
            count: 0,
            generation: UNIX_EPOCH.elapsed().unwrap().as_secs(),
            seq: 0,
            agents: 0,
            said: 0,
            spent: Spent::default(),
            _scratch: scratch,
        }
    }

    /// Deploys, cuts, boots and looks. The phase in which the cut came, and how the deployment ended after it.
    pub fn cut(&mut self, cut: &Cut) -> (Phase, Result<String, String>) {
        let mut phase = cut.seed.phase.unwrap_or(Phase::Idle);
        let result = self.cut_at(cut, &mut phase);
        (phase, result.map_err(|fault| self.told(&fault)))
    }

    fn cut_at(&mut self, cut: &Cut, phase: &mut Phase) -> Result<String, String> {
        let mut clock = Instant::now();
        self.prepare(cut)?;
        *phase = self.until(cut)?;
        self.power_cut();
        lap(&mut clock, &mut self.spent.until);
        if let Moment::Boot(ms) = cut.moment {
            *phase = Phase::Boot;
            self.boot(cut.offline.then_some(cut.clock), cut.cold)?;
            self.wait_for_agent()?;
            std::thread::sleep(Duration::from_millis(ms));
            *phase = self.phase(Phase::Boot);
            self.power_cut();
        }
        self.boot(cut.offline.then_some(cut.clock), cut.cold)?;
        self.wait_for_agent()?;
        lap(&mut clock, &mut self.spent.boot);
        self.verify(cut.offline)
    }

    /// The fault with what the machine said, and what every process of dunlin's waits for.
    fn told(&mut self, fault: &str) -> String {
        self.say(WITNESS);
        let Some((machine, _)) = &self.machine else {
            return fault.to_owned();
        };
        let end = Instant::now() + Duration::from_secs(10);
        while !machine.output().contains("vm: witnessed") && !machine.ended() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        format!("{fault}; the machine said:\n{}", machine.output())
    }

    /// A machine that runs a committed set, and has the images or not as the cut wants it.
    fn prepare(&mut self, cut: &Cut) -> Result<(), String> {
        if self.machine.is_none() {
            self.boot(None, cut.cold)?;
            self.send(true);
            self.wait_for_agent()?;
            self.verify(false)?;
        }
        if cut.pruned {
            self.ask("d system prune -a -f >/dev/null")?;
        }
        Ok(())
    }

    /// Sends the next document and returns at the moment of the cut.
    fn until(&mut self, cut: &Cut) -> Result<Phase, String> {
        if let Moment::Point(point) = cut.moment {
            self.ask(&format!("armed {point}"))?;
        }
        self.send(cut.good);
        let activity = self
            .flight
            .as_ref()
            .map(|flight| flight.activity.clone())
            .unwrap_or_default();
        let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
        match cut.moment {
            Moment::Point(_) => {
                // Some points come after the end was told.
                let over = Cell::new(None);
                let stood = self.wait("the kill point or the end", |said, _| {
                    if said.contains("vm: stands") {
                        return Some(true);
                    }
                    if over.get().is_none() && last_state(said, &activity).is_some_and(is_final) {
                        over.set(Some(Instant::now()));
                    }
                    over.get()
                        .is_some_and(|over| over.elapsed() > AFTER_THE_END)
                        .then_some(false)
                })?;
                if stood {
                    return Ok(cut.seed.phase.unwrap_or(Phase::Idle));
                }
            }
            Moment::After(state, ms) => {
                self.wait("its state or its end", |said, _| {
                    states(said, &activity)
                        .any(|one| one == state || is_final(one))
                        .then_some(())
                })?;
                pause(ms);
            }
            Moment::Prune(ms) => {
                self.wait("its end", |said, _| {
                    last_state(said, &activity).filter(|state| is_final(state)).map(drop)
                })?;
                self.say("d system prune -a -f >/dev/null; echo PRUNED");
                pause(ms);
                let over = self
                    .machine
                    .as_ref()
                    .is_some_and(|(machine, _)| machine.output().contains("PRUNED\n"));
                return Ok(if over { Phase::Idle } else { Phase::Prune });
            }
            Moment::Renew(ms) => {
                self.wait("its end", |said, _| {
                    last_state(said, &activity).filter(|state| is_final(state)).map(drop)
                })?;
                self.agents += 1;
                let tag = AGENTS[self.agents % AGENTS.len()];
                let program = format!("docker://{HOST}:{}/agent:{tag}", self.registry.port());
                self.say(&format!(
                    "d agent update --detach --allow-downgrade {program}; echo \"vm: renewing $?\""
                ));
                pause(ms);
                return Ok(Phase::SelfUpdate);
            }
            Moment::Sent(ms) => pause(ms),
            // Somewhere in the deployment; what counts comes after the next boot.
            Moment::Boot(ms) => pause(1500 + ms),
        }
        Ok(self.phase(Phase::Pull))
    }

    /// The phase by what the agent said last about the deployment under way; the broker hears not every state that passes.
    fn phase(&self, silent: Phase) -> Phase {
        let (Some((machine, _)), Some(flight)) = (&self.machine, &self.flight) else {
            return silent;
        };
        last_state(&machine.output(), &flight.activity).map_or(silent, Phase::of_state)
    }

    fn power_cut(&mut self) {
        if let Some((machine, watch)) = self.machine.take() {
            self.seq = self.seq.max(seqs(&watch).last().copied().unwrap_or(0));
            machine.power_cut();
        }
        if let Some(flight) = &mut self.flight {
            flight.cuts += 1;
        }
    }

    /// Gives the machine power: without a network when its clock is given; `cold` from its kernel's start on.
    fn boot(&mut self, offline: Option<Clock>, cold: bool) -> Result<(), String> {
        let watch = self.broker.watch("dunlin/v1/d/vm/#");
        let machine = match cold {
            true => self.booted.start_cold(&self.disk),
            false => self.booted.start(&self.disk)?,
        };
        self.machine = Some((machine, watch));
        let now = UNIX_EPOCH.elapsed().unwrap();
        let chance = RandomState::new().build_hasher().finish();
        self.say(&format!(
            "echo {chance} {now:?} >/dev/urandom; boot {} {} {} {}",
            match offline.unwrap_or(Clock::Right) {
                Clock::Right => now.as_secs(),
                Clock::Beginning => 86_400,
                Clock::Ahead => now.as_secs() + 10 * 365 * 86_400,
            },
            u8::from(offline.is_some()),
            self.broker.port(),
            self.registry.port(),
        ));
        Ok(())
    }

    fn wait_for_agent(&self) -> Result<(), String> {
        self.wait("the agent's start", |said, _| said.contains("vm: agent").then_some(()))
    }

    /// Types a command with the number that its end will be told with.
    fn say(&mut self, command: &str) -> u64 {
        self.said += 1;
        if let Some((machine, _)) = &mut self.machine {
            machine.say(&format!("{} {command}", self.said));
        }
        self.said
    }

    /// Sends the next document: new versions of the apps that go together, good or bad.
    fn send(&mut self, good: bool) {
        self.count += 1;
        self.generation += 1;
        let image = &self.images[self.count % IMAGES];
        let command = json!(["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]);
        let health = |program: &str| {
            json!({"exec": [program], "interval": "3s", "start_interval": "200ms", "timeout": "20s",
                   "failures": 2})
        };
        let app = |name: &str| {
            json!({"name": name, "image": image, "command": command, "env": {"N": self.count.to_string()},
                   "limits": {"memory": "24M"}, "health": health("/bin/true"), "update": {"soak": "1s"}})
        };
        let (db, mut web) = (app(TOGETHER[0]), app(TOGETHER[1]));
        web["depends_on"] = json!([TOGETHER[0]]);
        if !good {
            web["health"] = health("/bin/false");
        }
        let still = json!({"name": STILL, "image": self.images[0], "command": command, "limits": {"memory": "24M"}, "update": {"soak": "1s"}});
        let apps = json!([db, web, still]);
        let activity = format!("act-{}", self.generation);
        let document = json!({
            "audience": "d/vm", "generation": self.generation, "activity": activity,
            "issued_at": "2026-11-21T22:00:00Z", "apps": apps,
        });
        let parsed: Vec<App> = serde_json::from_value(apps).unwrap();
        let set = parsed
            .iter()
            .map(|app| (app.name.clone(), app.spec_digest().to_string()))
            .collect();
        self.broker
            .publish("dunlin/v1/d/vm/desired", document.to_string(), true);
        self.flight = Some(Flight {
            activity,
            set,
            good,
            cuts: 0,
        });
    }

    /// Waits for what the machine says on its console or over the broker.
    pub(super) fn wait<T>(&self, what: &str, found: impl Fn(&str, &Watch) -> Option<T>) -> Result<T, String> {
        let (machine, watch) = self.machine.as_ref().ok_or("no machine runs")?;
        machine.wait_until(what, LONG, |said| found(said, watch))
    }

    /// Runs a command in the guest; what it said, and its exit code.
    pub(super) fn ask(&mut self, command: &str) -> Result<(String, i32), String> {
        let (machine, _) = self.machine.as_ref().ok_or("no machine runs")?;
        let before = machine.output().len();
        let number = self.say(command);
        self.wait(&format!("`{command}`"), |said, _| answer_to(number, said, before))
    }
}
