//! What stays in memory on another architecture: dunlin with its agent and ten containers in an emulated micro machine, read from
//! inside.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::TEN;
use super::fixture::arch::Arch;
use super::fixture::broker::Broker;
use super::fixture::images::{Format, Index};
use super::fixture::registry::Registry;
use super::fixture::scratch::Scratch;
use super::fixture::vm::{HOST, Vm, make_disk};
use super::footprint::{Idle, Memory, ten};

const LONG: Duration = Duration::from_secs(200);

/// In the guest. The program runs from a disk: pages of a file in memory count as dirty.
const SCRIPT: &str = r#"
    cp /usr/bin/dunlin /disk/dunlin && sync
    as dunlin mkdir -m 700 /disk/store /tmp/drun
    delegated /disk/dunlin keeper --root /disk/store --runroot /tmp/drun --unit &
    for _ in $(seq 100); do [ -S /tmp/drun/keeper.sock ] && break; usleep 100000; done
    as dunlin /disk/dunlin --root /disk/store --runroot /tmp/drun --config /etc/agent.toml agent &
    look() {
        sync
        for p in /proc/[0-9]*; do
            [ "$(readlink $p/exe)" = /disk/dunlin ] || continue
            role=$(tr '\0' '\n' <$p/cmdline | grep -xE 'agent|keeper|monitor|worker|decode' | head -n 1)
            echo "$1 ${role:-other} $(awk '/^Pss:/ { p = $2 } /^Private_Dirty:/ { d = $2 } END { print p, d }' $p/smaps_rollup)"
        done
        echo "looked $1"
    }
    stty -echo </dev/console
    echo "vm: ready"
    while read -r line; do eval "$line"; done </dev/console
"#;

/// Measures; an error is why that cannot be.
pub fn idle(arch: Arch) -> Result<Idle, String> {
    let vm = Vm::new(arch)?.dunlin()?.net().timeout(Duration::from_secs(600));
    let (registry, broker, scratch) = (Registry::plain(), Broker::tls(), Scratch::new("bench-arm"));
    let disk = scratch.join("disk");
    make_disk(&disk, 128);
    let pushed = registry.push("idle", "1", &Index::busybox(Format::Oci));
    let digest = pushed.rsplit_once('@').expect("a digest").1;
    let image = format!("{HOST}:{}/idle@{digest}", registry.port());
    let settings = format!(
        "[device]\nname='vm'\n[mqtt]\nurl='mqtts://{HOST}:{}'\nca='/etc/ca.crt'\ncert='/etc/dev.crt'\nkey='/etc/dev.key'\n\
         [registry]\ninsecure=['{HOST}:{}']\n",
        broker.port(),
        registry.port()
    );
    let identity = broker.client("vm");
    let vm = vm.disk(&disk).text("etc/agent.toml", settings);
    let vm = vm.file(&broker.ca(), "etc/ca.crt", 0o644);
    let vm = vm.file(&identity.cert, "etc/dev.crt", 0o644);
    let vm = vm.file(&identity.key, "etc/dev.key", 0o644);
    // The board's budget is less than ten times the usual limit.
    let mut apps = ten(&image);
    apps.as_array_mut()
        .into_iter()
        .flatten()
        .for_each(|app| app["limits"] = json!({"memory": "8M"}));
    let mut watch = broker.watch("dunlin/v1/d/vm/deploy");
    let mut machine = vm.start(SCRIPT);
    let mut looks = Vec::new();
    for (number, apps) in [(1, json!([])), (2, apps)] {
        let activity = format!("act-{number}");
        let document = json!({
            "audience": "d/vm", "generation": 1_795_302_000 + number, "activity": activity,
            "issued_at": "2026-11-21T22:00:00Z", "apps": apps,
        });
        broker.publish("dunlin/v1/d/vm/desired", document.to_string(), true);
        watch.wait_for_json("a commitment", LONG, |value: &Value| {
            value["activity"] == activity.as_str() && value["state"] == "COMMITTED"
        });
        machine.wait_for("vm: ready");
        // Under emulation everything takes longer, what settles too.
        std::thread::sleep(Duration::from_secs(20));
        machine.say(&format!("look {number}"));
        machine.wait_until("a look", LONG, |said| {
            said.contains(&format!("looked {number}")).then_some(())
        })?;
        looks.push(read(&machine.output(), &number.to_string()));
    }
    machine.power_cut();
    let sum = |look: &BTreeMap<String, Vec<Memory>>, role: &str| {
        let all = look.iter().filter(|(name, _)| role.is_empty() || *name == role);
        let all = all.flat_map(|(_, all)| all);
        all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let monitors = sum(&looks[1], "monitor");
    let count = looks[1].get("monitor").map_or(0, Vec::len);
    if count != TEN {
        return Err(format!("{count} monitors beside {TEN} containers"));
    }
    let who: Vec<String> = looks[1]
        .iter()
        .map(|(role, all)| format!("{} {role}", all.len()))
        .collect();
    Ok(Idle {
        head: [sum(&looks[0], "agent"), sum(&looks[1], "agent")],
        each: (monitors.0 / TEN as u64, monitors.1 / TEN as u64),
        all: [sum(&looks[0], ""), sum(&looks[1], "")],
        who: who.join(", "),
    })
}

/// PSS and private dirty bytes of each process by its role, from the lines of a look.
fn read(output: &str, look: &str) -> BTreeMap<String, Vec<Memory>> {
    let mut found: BTreeMap<String, Vec<Memory>> = BTreeMap::new();
    for line in output.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [first, role, pss, dirty] = words[..] else { continue };
        if let (true, Ok(pss), Ok(dirty)) = (first == look, pss.parse::<u64>(), dirty.parse::<u64>()) {
            found.entry(role.to_owned()).or_default().push((pss << 10, dirty << 10));
        }
    }
    found
}
