//! A device without systemd and without anything made ready: root starts the agent in a bare initramfs. Control groups, root's own
//! store, logs in memory, the budget of writes and the hardware watchdog.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::arch::Arch;
use crate::fixture::broker::Broker;
use crate::fixture::images::{Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;
use crate::fixture::vm::{HOST, Vm, answer_to, make_disk};
use crate::skip;

const LONG: Duration = Duration::from_secs(120);

/// In the guest: takes away what the machine's init has made ready for others, then runs numbered commands from the console.
const SCRIPT: &str = r#"
    echo $$ >/sys/fs/cgroup/cgroup.procs
    echo 1 >/sys/fs/cgroup/cgroup.procs
    rmdir /sys/fs/cgroup/dunlin /sys/fs/cgroup/session
    umount /sys/fs/cgroup && ! grep cgroup /proc/mounts || echo "vm: control groups are still there"
    rm -rf /run/dunlin /var/lib/dunlin
    sed -i '/^dunlin:/d' /etc/passwd
    insmod /modules/watchdog.ko
    insmod /modules/softdog.ko soft_margin=10
    chown root:root /disk
    mount -o bind /disk /var/lib
    agent() { dunlin --config /etc/agent.toml agent >>/tmp/agent.log 2>&1 & agent=$!; }
    stty -echo </dev/console
    echo "vm: ready"
    while read -r number line; do eval "$line"; echo "vm: done $number $?"; done </dev/console
"#;

#[test]
fn root_runs_a_device_in_a_bare_initramfs_with_its_watchdog() {
    let vm = || -> Result<Vm, String> {
        let vm = Vm::new(Arch::X86_64)?.dunlin()?.net().memory(384);
        Ok(vm.timeout(Duration::from_secs(600)))
    };
    let vm = match vm() {
        Ok(vm) => vm,
        Err(reason) => skip!("{reason}"),
    };
    let (registry, broker, scratch) = (Registry::plain(), Broker::plain(), Scratch::new("bare"));
    let disk = scratch.join("disk");
    make_disk(&disk, 96);
    let pushed = registry.push("app", "1", &Index::busybox(Format::Oci));
    let image = format!("{HOST}:{}/app@{}", registry.port(), pushed.rsplit_once('@').unwrap().1);
    let settings = format!(
        "[device]\nname='vm'\nwatchdog='30s'\n[containers]\nlogs='memory'\n[store]\nwrite_budget='6M'\n\
         [mqtt]\nurl='mqtt://{HOST}:{}'\ninsecure=true\n[registry]\ninsecure=['{HOST}:{}']\n",
        broker.port(),
        registry.port()
    );
    let mut machine = vm.disk(&disk).text("/etc/agent.toml", settings).start(SCRIPT);
    machine.wait_for("vm: ready");
    let mut number = 0;
    let mut ask = |machine: &mut crate::fixture::vm::Running, command: &str| -> (String, i32) {
        number += 1;
        let before = machine.output().len();
        machine.say(&format!("{number} {command}"));
        machine
            .wait_until(command, LONG, |said| answer_to(number, said, before))
            .unwrap_or_else(|error| panic!("{error}\n{}", machine.output()))
    };
    let mut deploys = broker.watch("dunlin/v1/d/vm/deploy");
    let mut reports = broker.watch("dunlin/v1/d/vm/reported");
    let mut events = broker.watch("dunlin/v1/d/vm/evt/#");
    let app = json!({
        "name": "app", "image": image, "limits": {"memory": "16M", "pids": 20}, "update": {"soak": "1s"},
        "command": ["sh", "-c", "echo said; exec sleep 100000"],
    });
    let document = json!({
        "audience": "d/vm", "generation": 1_795_302_001, "activity": "bare", "issued_at": "2026-11-21T22:00:00Z", "apps": [app],
    });
    broker.publish("dunlin/v1/d/vm/desired", document.to_string(), true);
    ask(&mut machine, "agent");
    let value = deploys.wait_for_json("an end", LONG, |value| {
        matches!(value["state"].as_str(), Some("COMMITTED" | "FAILED" | "ROLLED_BACK"))
    });
    let (log, _) = ask(&mut machine, "cat /tmp/agent.log");
    assert_eq!(value["state"], "COMMITTED", "{value}\n{log}");
    assert!(
        log.contains("watchdog `/dev/watchdog` resets the device 10 s after"),
        "{log}"
    );

    // The limits are the kernel's, the log is memory's.
    let (limit, _) = ask(
        &mut machine,
        "cat $(find /sys/fs/cgroup -name memory.max) | grep -v max",
    );
    assert!(limit.lines().any(|line| line == "16777216"), "{limit}");
    let (said, _) = ask(
        &mut machine,
        "dunlin --config /etc/agent.toml logs app; readlink /var/lib/dunlin/containers/*/log",
    );
    assert!(said.starts_with("said\n/run/dunlin/c/"), "{said}");

    // More than the budget, all in all.
    ask(
        &mut machine,
        "dd if=/dev/urandom of=/disk/worn bs=1M count=8 conv=fsync",
    );
    let told = events.wait_for_json("the budget to be told", LONG, |value| {
        value["detail"]
            .as_str()
            .is_some_and(|text| text.contains("write budget"))
    });
    assert_eq!(told["code"], "disk", "{told}");
    let degraded = |value: &Value| value["degraded"].as_array().cloned().unwrap_or_default();
    reports.wait_for_json("the budget in `reported`", LONG, |value| {
        degraded(value).contains(&json!("writes"))
    });

    // An agent that is stopped is not missed; one that hangs is.
    let (log, code) = ask(&mut machine, "kill $agent; wait $agent; sleep 25; cat /proc/uptime");
    assert_eq!(code, 0, "{log}");
    ask(&mut machine, "agent");
    let armed = |said: &str| said.matches("resets the device").count() > 1;
    for _ in 0.. {
        if armed(&ask(&mut machine, "cat /tmp/agent.log").0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    machine.say("0 kill -STOP $agent; sleep 150; echo 'vm: nobody noticed'");
    let outcome = machine.wait();
    assert!(!outcome.output.contains("nobody noticed"), "{}", outcome.output);
    assert_eq!(outcome.code, None, "the device was reset: {}", outcome.output);
}
