//! A boot of ten apps: from the agent's start until all of them run, and how much of that the agent itself worked.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::arch::Arch;
use crate::fixture::broker::Broker;
use crate::fixture::images::{Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;
use crate::fixture::vm::{HOST, Vm, make_disk};
use crate::skip;

const APPS: usize = 10;

const SCRIPT: &str = r#"
    [ -d /disk/store ] || as dunlin mkdir -m 700 /disk/store
    as dunlin mkdir -m 700 /tmp/drun
    mkdir -p -m 777 /tmp/up && chmod 777 /tmp/up
    delegated dunlin keeper --root /disk/store --runroot /tmp/drun --unit &
    keeper=$!
    while ! [ -S /tmp/drun/keeper.sock ]; do usleep 20000; done
    uptime_ms() { awk '{ printf "%d", $1 * 1000 }' /proc/uptime; }
    cpu_ms() { awk '{ print ($14 + $15 + $16 + $17) * 10 }' /proc/$1/stat; }
    began=$(uptime_ms)
    as dunlin dunlin --root /disk/store --runroot /tmp/drun --config /etc/agent.toml agent &
    agent=$!
    while [ "$(ls /tmp/up | wc -l)" -lt APPS ]; do usleep 20000; done
    echo "took $(($(uptime_ms) - began)) ms, agent $(cpu_ms $agent) ms, keeper $(cpu_ms $keeper) ms"
    stty -echo </dev/console
    while read -r line; do eval "$line"; done </dev/console
"#;

#[test]
fn ten_apps_come_up_after_a_boot() {
    let vm = || -> Result<Vm, String> {
        let vm = Vm::new(Arch::X86_64)?.dunlin()?.net().memory(512);
        Ok(vm.timeout(Duration::from_secs(400)))
    };
    if let Err(reason) = vm() {
        skip!("{reason}");
    }
    let (registry, broker, scratch) = (Registry::plain(), Broker::plain(), Scratch::new("boot"));
    let disk = scratch.join("disk");
    make_disk(&disk, 128);
    let pushed = registry.push("app", "1", &Index::busybox(Format::Oci));
    let digest = pushed.rsplit_once('@').unwrap().1;
    let image = format!("{HOST}:{}/app@{digest}", registry.port());
    let settings = format!(
        "[device]\nname='vm'\n[mqtt]\nurl='mqtt://{HOST}:{}'\ninsecure=true\n[registry]\ninsecure=['{HOST}:{}']\n",
        broker.port(),
        registry.port()
    );
    let apps: Vec<Value> = (0..APPS)
        .map(|n| {
            json!({"name": format!("app{n}"), "image": image, "limits": {"memory": "8M"}, "update": {"soak": "100ms"},
                   "volumes": ["/tmp/up:/up:shared"], "command": ["sh", "-c", format!("echo >/up/{n}; exec sleep 100000")]})
        })
        .collect();
    let start = || {
        let vm = vm().unwrap().disk(&disk).text("/etc/agent.toml", &settings);
        vm.start(&SCRIPT.replace("APPS", &APPS.to_string()))
    };
    let mut machine = start();
    let mut watch = broker.watch("dunlin/v1/d/vm/deploy");
    let document = json!({
        "audience": "d/vm", "generation": 1_795_302_001, "activity": "ten", "issued_at": "2026-11-21T22:00:00Z", "apps": apps,
    });
    broker.publish("dunlin/v1/d/vm/desired", document.to_string(), true);
    watch.wait_for_json("ten apps to be committed", Duration::from_secs(300), |value| {
        value["state"] == "COMMITTED"
    });
    machine.wait_for("took ");
    std::thread::sleep(Duration::from_secs(1));
    // What one more update writes to the disk, its image there: row N26 as sectors.
    machine.say("sync; echo \"sectors before $(awk '{ print $7 }' /sys/block/vda/stat)\"");
    machine.wait_for("sectors before ");
    let mut next = document.clone();
    next["generation"] = json!(1_795_302_002);
    next["activity"] = json!("one");
    next["apps"][0]["env"] = json!({"N": "2"});
    broker.publish("dunlin/v1/d/vm/desired", next.to_string(), true);
    watch.wait_for_json("one app to be committed", Duration::from_secs(200), |value| {
        value["activity"] == "one" && value["state"] == "COMMITTED"
    });
    std::thread::sleep(Duration::from_secs(2));
    machine.say("sync; echo \"sectors after $(awk '{ print $7 }' /sys/block/vda/stat)\"; echo DONE");
    machine.wait_for("DONE");
    let output = machine.power_cut().output;
    let sectors = |word: &str| -> u64 {
        let line = output.lines().find_map(|line| line.strip_prefix(word));
        line.and_then(|number| number.trim().parse().ok())
            .unwrap_or_else(|| panic!("{word}\n{output}"))
    };
    let written = (sectors("sectors after ") - sectors("sectors before ")) * 512;
    println!("one deployment: {} KB written to the disk", written / 1000);
    assert!(written < 8 << 20, "{written} bytes");

    let machine = start();
    machine.wait_for("took ");
    // The rest of the line.
    std::thread::sleep(Duration::from_millis(500));
    let output = machine.power_cut().output;
    let line = output.lines().find(|line| line.starts_with("took ")).unwrap();
    println!("ten apps after a boot: {line}");
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(numbers[0] > 0 && numbers[0] < 120_000, "{line}");
    assert!(numbers[1] < numbers[0], "the agent's share: {line}");
}
