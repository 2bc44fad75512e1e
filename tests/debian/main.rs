//! The Debian package on a whole Debian with systemd, or with OpenRC, in an emulated machine:
//! `tests/debian/run [--openrc] [--only WORD,...] [--keep]`.
//!
//! Each step is said with its time; the first that fails ends the run with what the machine said.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    dead_code,
    missing_docs
)]

#[path = "../it/fixture/mod.rs"]
#[macro_use]
mod fixture;
mod openrc;
mod user;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::{Value, json};

use fixture::arch::Arch;
use fixture::broker::{Broker, Message, Watch};
use fixture::cmd::as_version;
use fixture::images::{Format, Index};
use fixture::registry::Registry;
use fixture::scratch::Scratch;
use fixture::vm::{HOST, Running, Vm, answer_to};

/// One step on a busy host without hardware help.
const LONG: Duration = Duration::from_secs(240);

const NEXT: &str = "0.1.1";

type Done<T = ()> = Result<T, String>;

/// What is done, and whether it went well.
type Step = (&'static str, fn(&mut Device) -> Done);

const STEPS: [Step; 14] = [
    ("the package is installed and both services run", install),
    ("apps come over MQTT", deploy),
    ("a boot without a network runs them", boot_offline),
    ("an update comes over MQTT after a boot", update),
    ("a power cut", power_cut),
    ("the agent is killed", kill_agent),
    ("the keeper is killed", kill_keeper),
    ("the keeper's guard is killed", kill_guard),
    ("the package is upgraded", upgrade),
    ("what the units allow", hardening),
    ("systemd runs in a container", systemd_inside),
    ("an ordinary user's session runs its own store", user::session),
    ("the keeper is stopped and started", stop),
    ("the package is purged", purge),
];

struct Device {
    scratch: Scratch,
    disk: PathBuf,
    packages: PathBuf,
    broker: Broker,
    registry: Registry,
    images: [String; 2],
    machine: Option<Running>,
    watch: Watch,
    said: u64,
    generation: u64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let given = |option: &str| words.iter().position(|word| word == option);
    let (system, steps) = match given("--openrc") {
        Some(_) => ("openrc", &openrc::STEPS[..]),
        None => ("debian", &STEPS[..]),
    };
    let only = given("--only").and_then(|at| words.get(at + 1));
    let chosen = |what: &str| only.is_none_or(|only| only.split(',').any(|word| what.contains(word)));
    let mut device = match Device::new(system) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("debian: {error}");
            return ExitCode::from(2);
        }
    };
    let mut failed = 0;
    for (what, step) in steps.iter().filter(|(what, _)| chosen(what)) {
        let began = Instant::now();
        match step(&mut device) {
            Ok(()) => println!("ok      {what}, {:.0} s", began.elapsed().as_secs_f64()),
            Err(error) => {
                println!("FAILED  {what}: {error}");
                if let Some(machine) = &device.machine {
                    println!("{}", machine.output());
                }
                failed += 1;
                break;
            }
        }
    }
    if given("--keep").is_some() {
        let kept = PathBuf::from(format!("target/{system}.ext4"));
        drop(device.machine.take());
        let _ = std::fs::copy(&device.disk, &kept);
        println!("{}", kept.display());
    }
    println!("debian: {} steps, {failed} failed", steps.len());
    ExitCode::from(u8::from(failed > 0))
}

impl Device {
    fn new(system: &str) -> Done<Device> {
        let parts = fixture::arch::machine_parts()?;
        let scratch = Scratch::new("debian");
        let disk = scratch.join("disk");
        sparse(&parts.join(format!("{system}-x86_64.ext4")), &disk)?;
        let target = parts.parent().ok_or("no target folder")?;
        let package = first(&target.join("dist"), "_amd64.deb")?;
        let packages = scratch.join("packages.tar");
        let next = next_version(&scratch, &package)?;
        std::fs::copy(&package, scratch.join("dunlin.deb")).map_err(|e| e.to_string())?;
        run(Command::new("tar")
            .arg("-cf")
            .arg(&packages)
            .arg("-C")
            .arg(scratch.path())
            .args(["dunlin.deb", &next]))?;
        let registry = Registry::plain();
        let push = |version: &str| {
            let labels = json!({"version": version});
            let index = Index::each(Format::Oci, |recipe| recipe.config("Labels", labels.clone()));
            let pushed = registry.push("app", version, &index);
            let digest = pushed.rsplit_once('@').unwrap().1;
            format!("{HOST}:{}/app@{digest}", registry.port())
        };
        let images = [push("1"), push("2")];
        let broker = Broker::plain();
        let watch = broker.watch("dunlin/v1/d/vm/#");
        Ok(Device {
            disk,
            packages,
            broker,
            images,
            machine: None,
            watch,
            said: 0,
            generation: UNIX_EPOCH.elapsed().unwrap().as_secs(),
            registry,
            scratch,
        })
    }

    fn boot(&mut self, network: bool) -> Done {
        let ready = |said: &str| said.contains("vm: ready").then_some(());
        for _ in 0..2 {
            if self
                .power_on(network)?
                .wait_until("the console", LONG / 2, ready)
                .is_ok()
            {
                return Ok(());
            }
            // Seen once, before any service had started.
            println!("        the machine hung in its boot and is started again");
            self.power_cut();
        }
        self.power_on(network)?.wait_until("the console", LONG, ready)
    }

    fn power_on(&mut self, network: bool) -> Done<&Running> {
        let vm = Vm::new(Arch::X86_64)?.whole().lean().cpus(2).memory(1024);
        let vm = vm
            .disk(&self.disk)
            .more_disk(&self.packages)
            .timeout(Duration::from_secs(3600));
        let vm = if network { vm.net() } else { vm };
        Ok(self.machine.insert(vm.start("")))
    }

    fn power_cut(&mut self) {
        if let Some(machine) = self.machine.take() {
            machine.power_cut();
        }
    }

    fn wait<T>(&self, what: &str, found: impl Fn(&str) -> Option<T>) -> Done<T> {
        let machine = self.machine.as_ref().ok_or("no machine runs")?;
        machine.wait_until(what, LONG, found)
    }

    /// Runs a command in the guest; what it said, and its exit code.
    fn ask(&mut self, command: &str) -> Done<(String, i32)> {
        self.said += 1;
        let number = self.said;
        let machine = self.machine.as_mut().ok_or("no machine runs")?;
        let before = machine.output().len();
        machine.say(&format!("{number} {command}"));
        let said = self.wait(&format!("`{command}`"), |said| answer_to(number, said, before));
        said.map(|(text, code)| (text.trim().to_owned(), code))
    }

    /// The same; an error unless it ends with 0.
    fn ok(&mut self, command: &str) -> Done<String> {
        match self.ask(command)? {
            (said, 0) => Ok(said),
            (said, code) => Err(format!("`{command}` ended with {code}: {said}")),
        }
    }

    fn is(&mut self, command: &str, wanted: &str) -> Done {
        let (said, _) = self.ask(command)?;
        if said == wanted {
            return Ok(());
        }
        Err(format!("`{command}` said `{said}`, wanted `{wanted}`"))
    }

    /// Asks until the answer is as wanted.
    fn until(&mut self, command: &str, wanted: &str) -> Done {
        let end = Instant::now() + LONG;
        loop {
            match self.is(command, wanted) {
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(500)),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn send(&mut self, image: usize) -> String {
        self.generation += 1;
        let app = |name: &str| {
            json!({"name": name, "image": self.images[image], "limits": {"memory": "24M", "pids": 16},
                   "command": ["sh", "-c", "trap 'sleep 0.2; exit 0' TERM; sleep 100000 & wait"],
                   "health": {"exec": ["true"], "interval": "10s", "start_interval": "500ms", "timeout": "30s"},
                   "update": {"soak": "2s"}})
        };
        let mut web = app("web");
        web["depends_on"] = json!(["db"]);
        let activity = format!("act-{}", self.generation);
        let document = json!({
            "audience": "d/vm", "generation": self.generation, "activity": activity,
            "issued_at": "2026-11-21T22:00:00Z", "apps": [app("db"), web],
        });
        self.broker
            .publish("dunlin/v1/d/vm/desired", document.to_string(), true);
        activity
    }

    fn committed(&mut self, activity: &str) -> Done {
        let end = Instant::now() + LONG;
        let committed = |message: &Message| {
            let value: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
            value["activity"] == activity && value["state"] == "COMMITTED"
        };
        while !self.watch.messages().iter().any(committed) {
            if Instant::now() > end {
                let (said, _) =
                    self.ask("ip addr; journalctl -b -u dunlin -u dunlin-keeper -o cat --no-pager | tail -n 40")?;
                return Err(format!("{activity} was not committed: {said}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Waits until both apps run in this version.
    fn apps_run(&mut self, image: usize) -> Done {
        let digest = self.images[image].rsplit_once('@').unwrap().1.to_owned();
        self.until(APPS, &format!("db {digest}\nweb {digest}"))
    }

    /// Processes of the containers: nothing may start them again.
    fn pids(&mut self) -> Done<String> {
        self.ok("dunlin inspect --format '{{.State.Pid}}' db web")
    }

    fn active(&mut self) -> Done {
        self.until("systemctl is-active dunlin-keeper dunlin", "active\nactive")
    }
}

const APPS: &str = "dunlin ps --format '{{.Names}} {{.Image}}' | sed 's/ .*@/ /' | sort";

/// A machine with the package and its settings.
fn unpack(device: &mut Device) -> Done {
    device.boot(true)?;
    device.ok("mkdir -p /root/packages && tar -xf /dev/vdb -C /root/packages")?;
    let (host, broker, registry) = (HOST, device.broker.port(), device.registry.port());
    device.ok(&format!(
        "mkdir -p /etc/dunlin && printf '%s\\n' '[device]' \"name='vm'\" '[mqtt]' \"url='mqtt://{host}:{broker}'\" 'insecure=true' \
         '[registry]' \"insecure=['{host}:{registry}']\" '[apps]' \"probe_timeout='120s'\" >/etc/dunlin/agent.toml"
    ))?;
    let said = device.ok("dpkg --force-confold -i /root/packages/dunlin.deb || \
         { journalctl -b -u 'dunlin*' -o cat --no-pager | tail -n 20; false; }")?;
    for line in said.lines().filter(|line| line.starts_with("dunlin:")) {
        println!("        {line}");
    }
    Ok(())
}

fn install(device: &mut Device) -> Done {
    unpack(device)?;
    device.active()?;
    device.ok("grep '^dunlin:[0-9]*:65536$' /etc/subuid && grep '^dunlin:[0-9]*:65536$' /etc/subgid")?;
    device.is("stat -c '%U %a' /var/lib/dunlin /run/dunlin", "dunlin 700\ndunlin 700")?;
    device.is("systemctl is-enabled dunlin-keeper dunlin", "enabled\nenabled")?;
    let (said, _) = device.ask("dunlin doctor")?;
    for line in said.lines() {
        println!("        {line}");
    }
    // The profile is for a kernel that keeps user namespaces from programs without one.
    let armor = "cat /sys/module/apparmor/parameters/enabled; [ -e /proc/sys/kernel/apparmor_restrict_unprivileged_userns ] || echo free";
    let (said, _) = device.ask(armor)?;
    println!("        AppArmor, user namespaces: {}", said.replace('\n', ", "));
    let profile = if said.ends_with("free") {
        ""
    } else {
        "/etc/apparmor.d/dunlin"
    };
    device.is("ls /etc/apparmor.d/dunlin 2>/dev/null", profile)
}

fn deploy(device: &mut Device) -> Done {
    let activity = device.send(0);
    device.committed(&activity)?;
    device.apps_run(0)?;
    // The limits are in the unit's own tree.
    let limits = "cat /sys/fs/cgroup/system.slice/dunlin-keeper.service/c-*/memory.max | sort -u";
    device.is(limits, &(24 << 20).to_string())
}

fn boot_offline(device: &mut Device) -> Done {
    device.ok("sync")?;
    device.power_cut();
    device.boot(false)?;
    device.apps_run(0)?;
    let times = "for unit in dunlin-keeper dunlin; do systemctl show -p ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic \
        --value $unit; done; systemctl is-active network-online.target";
    let (said, _) = device.ask(times)?;
    let numbers: Vec<f64> = said
        .lines()
        .filter_map(|line| line.parse::<f64>().ok())
        .map(|us| us / 1e6)
        .collect();
    let (uptime, _) = device.ask("cat /proc/uptime")?;
    println!(
        "        keeper started and ready, agent started and ready at {numbers:.1?} s; both apps seen at {uptime}"
    );
    if !said.ends_with("inactive") {
        return Err(format!("there is a network: {said}"));
    }
    let (cpu, _) = device
        .ask("systemctl show -p CPUUsageNSec --value dunlin; systemctl show -p CPUUsageNSec --value dunlin-keeper")?;
    println!(
        "        processor nanoseconds of the agent, and of the keeper with all apps: {}",
        cpu.replace('\n', ", ")
    );
    Ok(())
}

fn update(device: &mut Device) -> Done {
    device.ok("sync")?;
    let before = device.machine.as_ref().map_or(0, |machine| machine.output().len());
    // Its answer may be cut off.
    let _ = device.ask("systemctl reboot");
    device.wait("the end of the shutdown", |said| {
        said.get(before..)?.contains("reboot: Restarting system").then_some(())
    })?;
    device.wait("the console", |said| {
        said.get(before..)?.contains("vm: ready").then_some(())
    })?;
    device.apps_run(0)?;
    device.ok("sync")?;
    device.power_cut();
    device.boot(true)?;
    device.apps_run(0)?;
    let activity = device.send(1);
    device.committed(&activity)?;
    device.apps_run(1)
}

fn power_cut(device: &mut Device) -> Done {
    let _ = device.send(0);
    std::thread::sleep(Duration::from_secs(3));
    device.power_cut();
    device.boot(true)?;
    device.apps_run(0)?;
    device.is("dunlin system check >/dev/null 2>&1; echo $?", "0")
}

fn kill_agent(device: &mut Device) -> Done {
    let before = device.pids()?;
    let old = device.ok("systemctl show -p MainPID --value dunlin")?;
    device.ok(&format!("kill -9 {old}"))?;
    device.until(
        &format!("[ $(systemctl show -p MainPID --value dunlin) != {old} ] && systemctl is-active dunlin"),
        "active",
    )?;
    device.is("dunlin inspect --format '{{.State.Pid}}' db web", &before)
}

fn kill_keeper(device: &mut Device) -> Done {
    let before = device.pids()?;
    let guard = device.ok("systemctl show -p MainPID --value dunlin-keeper")?;
    let keeper = format!("cat /proc/{guard}/task/{guard}/children");
    let old = device.ok(&keeper)?;
    device.ok(&format!("kill -9 {old}"))?;
    // The unit's first process runs another; systemd has seen nothing, containers and the agent go on.
    device.is("dunlin exec web echo hello", "hello")?;
    if device.ok(&keeper)? == old {
        return Err("it was not killed".to_owned());
    }
    device.is("dunlin inspect --format '{{.State.Pid}}' db web", &before)?;
    device.is("systemctl show -p NRestarts --value dunlin-keeper dunlin", "0\n\n1")?;
    device.is(
        "cat /sys/fs/cgroup/system.slice/dunlin-keeper.service/c-*/memory.max | sort -u",
        &(24 << 20).to_string(),
    )
}

fn kill_guard(device: &mut Device) -> Done {
    let old = device.ok("systemctl show -p MainPID --value dunlin-keeper")?;
    device.ok(&format!("kill -9 {old}"))?;
    let again =
        format!("[ $(systemctl show -p MainPID --value dunlin-keeper) != {old} ] && systemctl is-active dunlin-keeper");
    device.until(&again, "active")?;
    device.active()?;
    // systemd ends what is left of the unit; the agent starts it again.
    device.apps_run(0)?;
    device.is("dunlin exec web echo hello", "hello")
}

fn upgrade(device: &mut Device) -> Done {
    let before = device.pids()?;
    device.ok(&format!("dpkg --force-confold -i /root/packages/{NEXT}.deb"))?;
    device.active()?;
    device.is("dunlin inspect --format '{{.State.Pid}}' db web", &before)?;
    device.is("dunlin version --format '{{.Client.Version}}'", NEXT)?;
    // The keeper and its guard are the new program as well, without having ended.
    device.is(
        "guard=$(systemctl show -p MainPID --value dunlin-keeper); agent=$(systemctl show -p MainPID --value dunlin); \
         for pid in $guard $(cat /proc/$guard/task/$guard/children) $agent; do readlink /proc/$pid/exe; done",
        "/usr/bin/dunlin\n/usr/bin/dunlin\n/usr/bin/dunlin",
    )?;
    device.is("systemctl show -p NRestarts --value dunlin-keeper", "1")?;
    let activity = device.send(1);
    device.committed(&activity)?;
    device.apps_run(1)
}

fn hardening(device: &mut Device) -> Done {
    device.is("systemctl --failed --no-legend --plain | grep -c dunlin", "0")?;
    // Nothing of the host can be written by the agent, and it may not become anybody else.
    device.is("grep -E '^(NoNewPrivs|Seccomp|CapBnd):' /proc/$(systemctl show -p MainPID --value dunlin)/status | tr -s '\\t' ' '",
        "CapBnd: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2")?;
    // The keeper may make its user namespace and nothing else; a container has in its own what it has anywhere.
    device.is(
        "grep -E '^Cap(Prm|Bnd):' /proc/$(systemctl show -p MainPID --value dunlin-keeper)/status | tr -s '\\t' ' '",
        "CapPrm: 0000000000000000\nCapBnd: 00000000002000c2",
    )?;
    device.is(
        "dunlin exec web grep CapBnd /proc/self/status | tr -s '\\t' ' '",
        "CapBnd: 00000000800405fb",
    )?;
    let (said, _) = device.ask("systemd-analyze security --no-pager dunlin dunlin-keeper | grep -i overall")?;
    println!("        {}", said.replace('\n', "\n        "));
    let (said, _) = device.ask("journalctl -b -u dunlin -u dunlin-keeper -o cat --no-pager -p warning")?;
    for line in said.lines() {
        println!("        warned: {line}");
    }
    Ok(())
}

/// Debian's own systemd as the first process of a container.
fn systemd_inside(device: &mut Device) -> Done {
    let image = "tar -C / -c --exclude='*/multi-user.target.wants/*' --exclude='usr/lib/modules' --exclude='usr/lib/*/dri' \
        bin sbin lib lib64 usr/bin usr/sbin usr/lib usr/lib64 etc | dunlin import -q - localhost/whole:1";
    device.ok(image)?;
    device
        .ok("dunlin run -d --name whole --network none --memory 128M --pids-limit 100 localhost/whole:1 /sbin/init")?;
    // It is up, also where some unit of a whole machine could not start.
    device.until(
        "dunlin exec whole systemctl is-system-running | sed s/degraded/running/",
        "running",
    )?;
    let (failed, _) = device.ask("dunlin exec whole systemctl --failed --no-legend --plain")?;
    println!("        {}", failed.replace('\n', "\n        "));
    device.is("dunlin exec whole systemctl is-active systemd-journald", "active")?;
    // Its services have control groups of their own, below the container's.
    device.ok("dunlin exec whole systemctl set-property --runtime systemd-journald.service MemoryMax=32M")?;
    device.is(
        "dunlin exec whole cat /sys/fs/cgroup/system.slice/systemd-journald.service/memory.max",
        &(32 << 20).to_string(),
    )?;
    let began = Instant::now();
    device.ok("dunlin stop -t 120 whole")?;
    let (code, _) = device.ask("dunlin inspect --format '{{.State.ExitCode}}' whole")?;
    println!(
        "        stopped in {:.0} s with code {code}",
        began.elapsed().as_secs_f64()
    );
    if code == "137" {
        return Err("it did not end when it was asked to".to_owned());
    }
    device.ok("dunlin rm whole && dunlin rmi localhost/whole:1").map(drop)
}

fn stop(device: &mut Device) -> Done {
    device.ok("systemctl stop dunlin-keeper")?;
    device.is("systemctl is-active dunlin-keeper dunlin", "inactive\ninactive")?;
    device.is(
        "pgrep -c -u dunlin; ls -d /sys/fs/cgroup/system.slice/dunlin-keeper.service 2>/dev/null",
        "0",
    )?;
    // In order: who depends on another goes first.
    let (said, _) = device.ask("journalctl -b -u dunlin-keeper -o cat --no-pager | tail -n 20")?;
    println!("        {}", said.replace('\n', "\n        "));
    device.ok("systemctl start dunlin-keeper dunlin")?;
    device.active()?;
    device.apps_run(1)
}

fn purge(device: &mut Device) -> Done {
    device.ok("dpkg --purge dunlin")?;
    device.is("ps -eo args | grep -c '[d]unlin'", "0")?;
    let left = "getent passwd dunlin; grep dunlin /etc/subuid /etc/subgid; ls -d /var/lib/dunlin /run/dunlin /usr/bin/dunlin /etc/dunlin \
        /usr/lib/systemd/system/dunlin* /sys/fs/cgroup/system.slice/dunlin* 2>/dev/null; systemctl list-unit-files --no-legend 'dunlin*'";
    device.is(left, "")
}

/// A copy with its holes.
fn sparse(from: &Path, to: &Path) -> Done {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to))
}

/// The package as that of the next version, with the next version of the program.
fn next_version(scratch: &Scratch, package: &Path) -> Done<String> {
    let root = scratch.join("next");
    run(Command::new("dpkg-deb").arg("-R").arg(package).arg(&root))?;
    let change = |name: &str, with: &dyn Fn(Vec<u8>) -> Vec<u8>| -> Done {
        let path = root.join(name);
        let bytes = std::fs::read(&path).map_err(|e| e.to_string())?;
        std::fs::write(&path, with(bytes)).map_err(|e| e.to_string())
    };
    change("usr/bin/dunlin", &|bytes| as_version(bytes, NEXT))?;
    change("DEBIAN/control", &|bytes| {
        let text = String::from_utf8(bytes).unwrap();
        text.replace(
            &format!("Version: {}", env!("CARGO_PKG_VERSION")),
            &format!("Version: {NEXT}"),
        )
        .into()
    })?;
    let name = format!("{NEXT}.deb");
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zgzip", "-b"])
        .arg(&root)
        .arg(scratch.join(&name)))?;
    Ok(name)
}

fn first(folder: &Path, suffix: &str) -> Done<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("`{}`: {e}", folder.display()))?;
    let mut found = entries.flatten().map(|entry| entry.path());
    found
        .find(|path| path.to_string_lossy().ends_with(suffix))
        .ok_or(format!("no `*{suffix}` in `{}`", folder.display()))
}

fn run(command: &mut Command) -> Done {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
