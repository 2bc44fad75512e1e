//! The static binary on real kernels with cgroup v2, both architectures, as an ordinary user in a delegated tree: limits
//! bite, and the agent takes updates from a broker.

mod bare;
mod boot;
mod power;
mod replay;
mod runtime;

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::arch::Arch;
use crate::fixture::broker::Broker;
use crate::fixture::images::{Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;
use crate::fixture::vm::{HOST, Vm, make_disk};
use crate::skip;

/// In the guest: says now and then what every program waits for, so that a test which runs out of time tells why.
const WITNESS: &str = r#"
    (while sleep 50; do
        echo "after $(cut -d ' ' -f 1 /proc/uptime) s:"
        for p in /proc/[0-9]*; do
            [ -s $p/maps ] || continue
            echo "$(cut -d ' ' -f 1-4 $p/stat) wchan $(cat $p/wchan) syscall $(cut -d ' ' -f 1-3 $p/syscall)"
            for t in $p/task/*; do echo "  ${t##*/} $(cat $t/wchan) $(cat $t/syscall | cut -d ' ' -f 1-3)"; done
        done
    done) 2>/dev/null &
"#;

/// Runs in the guest: `IMAGE` stands for the image's name there.
const LIMITS: &str = r#"
    set -e
    as dunlin mkdir -m 700 /home/dunlin/store /tmp/drun
    delegated dunlin keeper --root /home/dunlin/store --runroot /tmp/drun --unit &
    for _ in $(seq 100); do [ -S /tmp/drun/keeper.sock ] && break; usleep 100000; done
    d() { as dunlin dunlin --root /home/dunlin/store --runroot /tmp/drun --config /etc/agent.toml "$@"; }
    fail() { echo "FAILED: $*"; d ps -a; exit 1; }
    d pull -q IMAGE
    [ "$(d run --rm IMAGE cat /etc/arch)" = ARCH ] || fail "the image of another architecture"
    [ "$(d run --rm --user app IMAGE id -u)" = 1000 ] || fail "user"
    d info | grep -i cgroup

    echo "- a memory hog dies inside its limit"
    code=0
    d run --name hog --memory 32M --memory-swap 32M IMAGE dd if=/dev/zero of=/dev/null bs=200M count=1 || code=$?
    [ $code = 137 ] || fail "the hog ended with $code"
    [ "$(d inspect --format '{{.State.OOMKilled}}' hog)" = true ] || fail "the hog is not reported as oom"
    d rm hog

    echo "- a fork bomb stops at its limit"
    d run -d --name bomb --pids-limit 20 IMAGE sh -c '(while :; do sleep 1000 & done); exec sleep 1000' >/dev/null
    sleep 2
    group=$(find /sys/fs/cgroup/dunlin -type d -name "c-$(d inspect --format '{{.Id}}' bomb)*" | head -n 1)
    [ -n "$group" ] || fail "no control group"
    [ "$(cat $group/pids.max)" = 20 ] || fail "pids.max is $(cat $group/pids.max)"
    current=$(cat $group/pids.current)
    [ $current -le 20 ] || fail "$current tasks"
    grep -q '^max [1-9]' $group/pids.events || fail "the limit was never met: $(cat $group/pids.events)"
    d rm -f -t 0 bomb >/dev/null

    echo "- a busy loop gets its share and no more"
    d run -d --name busy --cpus 0.2 --cpuset-cpus 0 --cpu-shares 512 --device-write-bps /dev/vda:1mb IMAGE sh -c 'while :; do :; done' >/dev/null
    sleep 1
    group=$(find /sys/fs/cgroup/dunlin -type d -name "c-$(d inspect --format '{{.Id}}' busy)*" | head -n 1)
    [ "$(cat $group/cpuset.cpus)" = 0 ] || fail "cpuset.cpus is $(cat $group/cpuset.cpus)"
    [ "$(cat $group/cpu.weight)" -lt 100 ] || fail "cpu.weight is $(cat $group/cpu.weight)"
    grep -q 'wbps=1048576' $group/io.max || fail "io.max is $(cat $group/io.max)"
    used() { awk '/^usage_usec/ { print $2 }' $group/cpu.stat; }
    uptime_us() { awk '{ printf "%d\n", $1 * 1000000 }' /proc/uptime; }
    used0=$(used); at0=$(uptime_us)
    sleep 5
    used1=$(used); at1=$(uptime_us)
    share=$(( (used1 - used0) * 1000 / (at1 - at0) ))
    echo "share: $share of 1000"
    [ $share -le 230 ] || fail "more than its share: $share"
    [ $share -ge 100 ] || fail "far less than its share: $share"
    d rm -f -t 0 busy >/dev/null

    echo "- a limit that cannot be enforced is an error with the fix"
    code=0
    as plain dunlin run --rm --memory 32M IMAGE true 2>/tmp/error || code=$?
    [ $code = 125 ] || fail "code $code"

    [ -z "$(d ps -a -q)" ] || fail "containers are left"
    [ -z "$(find /sys/fs/cgroup/dunlin -type d -name 'c-*')" ] || fail "control groups are left"
    echo all limits hold
"#;

fn settings(registry: &Registry, more: &str) -> String {
    format!("[registry]\ninsecure = ['{HOST}:{}']\n{more}", registry.port())
}

fn machine(arch: Arch) -> Result<Vm, String> {
    Ok(Vm::new(arch)?
        .dunlin()?
        .net()
        .memory(512)
        .timeout(Duration::from_secs(240)))
}

fn limits_bite(arch: Arch) {
    let vm = match machine(arch) {
        Ok(vm) => vm,
        Err(reason) => skip!("{reason}"),
    };
    let registry = Registry::plain();
    registry.push("busybox", "1", &Index::busybox(Format::Oci));
    let image = format!("{HOST}:{}/busybox:1", registry.port());
    let script = LIMITS.replace("IMAGE", &image).replace("ARCH", arch.oci());
    // For its number alone: a limit names a device.
    let scratch = Scratch::new("limits");
    let disk = scratch.join("disk");
    make_disk(&disk, 16);
    let outcome = vm
        .disk(&disk)
        .text("/etc/agent.toml", settings(&registry, ""))
        .run(&script);
    assert!(outcome.ok().contains("all limits hold"));
}

#[test]
fn limits_bite_on_x86_64() {
    limits_bite(Arch::X86_64);
}

#[test]
fn limits_bite_on_aarch64() {
    limits_bite(Arch::Aarch64);
}

fn app(image: &str, version: &str, command: Value, soak: &str) -> Value {
    json!([{
        "name": "web", "image": image, "env": {"VERSION": version}, "command": command,
        "limits": {"memory": "32M", "swap": 0, "pids": 16, "cpu": "0.5"},
        "health": {"exec": ["/bin/true"], "interval": "500ms", "start_interval": "200ms", "timeout": "10s"},
        "update": {"soak": soak},
    }])
}

fn takes_updates(arch: Arch) {
    let vm = match machine(arch) {
        Ok(vm) => vm,
        Err(reason) => skip!("{reason}"),
    };
    let registry = Registry::plain();
    let broker = Broker::plain();
    let pushed = registry.push("busybox", "1", &Index::busybox(Format::Docker));
    let digest = pushed.rsplit_once('@').unwrap().1;
    let image = format!("{HOST}:{}/busybox@{digest}", registry.port());
    let mut watch = broker.watch("dunlin/v1/d/vm/#");
    let mqtt = format!(
        "[device]\nname='vm'\n[mqtt]\nurl='mqtt://{HOST}:{}'\ninsecure=true\n",
        broker.port()
    );
    let running = vm.text("/etc/agent.toml", settings(&registry, &mqtt)).start(&format!(
        "{WITNESS}
         as dunlin mkdir -m 700 /home/dunlin/store /tmp/drun
         delegated dunlin keeper --root /home/dunlin/store --runroot /tmp/drun --unit &
         for _ in $(seq 100); do [ -S /tmp/drun/keeper.sock ] && break; usleep 100000; done
         as dunlin dunlin --root /home/dunlin/store --runroot /tmp/drun --config /etc/agent.toml agent",
    ));
    let publish = |generation: u64, apps: Value| {
        let document = json!({
            "audience": "d/vm", "generation": generation, "activity": format!("act-{generation}"),
            "issued_at": "2026-11-21T22:00:00Z", "apps": apps,
        });
        broker.publish("dunlin/v1/d/vm/desired", document.to_string(), true);
    };
    let mut wait = |activity: &str, state: &str| -> Value {
        watch.wait_for(
            &format!("{activity} to be {state}"),
            Duration::from_secs(120),
            |message| {
                let value = serde_json::from_slice::<Value>(&message.payload).ok()?;
                let fits =
                    message.topic.ends_with("/deploy") && value["activity"] == activity && value["state"] == state;
                fits.then_some(value)
            },
        )
    };
    publish(1_795_302_001, app(&image, "1", json!(["sleep", "1000"]), "1s"));
    wait("act-1795302001", "COMMITTED");
    publish(1_795_302_002, app(&image, "2", json!(["sleep", "1000"]), "1s"));
    wait("act-1795302002", "COMMITTED");
    // A version that wants more memory than its limit is killed in it, reported, and left for the old one.
    let hog = json!(["sh", "-c", "sleep 1; exec dd if=/dev/zero of=/dev/null bs=200M count=1"]);
    publish(1_795_302_003, app(&image, "3", hog, "10s"));
    let record = wait("act-1795302003", "ROLLED_BACK");
    assert_eq!(record["reason"]["code"], "oom", "{record}");
    drop(running);
}

#[test]
fn an_agent_on_x86_64_takes_updates_and_goes_back_from_a_memory_hog() {
    takes_updates(Arch::X86_64);
}

#[test]
fn an_agent_on_aarch64_takes_updates_and_goes_back_from_a_memory_hog() {
    takes_updates(Arch::Aarch64);
}
