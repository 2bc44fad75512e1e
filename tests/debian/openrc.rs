//! The scripts of `config/openrc` on a Debian whose services OpenRC starts.

use super::{Device, Done, NEXT, Step};

pub const STEPS: [Step; 6] = [
    (
        "OpenRC: the package and the scripts are installed, both services run",
        install,
    ),
    ("OpenRC: a boot without a network runs the apps", boot_offline),
    ("OpenRC: the agent is killed, then the keeper, then its guard", kill),
    ("OpenRC: the keeper is reloaded, the package upgraded", upgrade),
    ("OpenRC: the keeper is stopped and started", stop),
    ("OpenRC: the package is purged", purge),
];

const STATUS: &str = "for name in dunlin-keeper dunlin; do rc-service $name status | sed 's/.*status: //'; done";
const TREE: &str = "/sys/fs/cgroup/dunlin.tree";
/// What the supervisors started; the first process of the keeper's service guards the keeper.
const GUARD: &str = "cat /run/openrc/options/dunlin-keeper/child_pid";
const KEEPER: &str = "pgrep -P $(cat /run/openrc/options/dunlin-keeper/child_pid)";
const AGENT: &str = "cat /run/openrc/options/dunlin/child_pid";

fn install(device: &mut Device) -> Done {
    super::unpack(device)?;
    device.ok("install -m 755 -t /etc/init.d /usr/share/doc/dunlin/examples/openrc/*")?;
    device.ok("rc-update add dunlin-keeper default && rc-update add dunlin default")?;
    // What it needs is started with it.
    println!(
        "        {}",
        device.ok("rc-service dunlin start")?.replace('\n', "\n        ")
    );
    started(device)?;
    let activity = device.send(0);
    device.committed(&activity)?;
    device.apps_run(0)?;
    limited(device)
}

fn boot_offline(device: &mut Device) -> Done {
    device.ok("sync")?;
    device.power_cut();
    device.boot(false)?;
    started(device)?;
    device.apps_run(0)?;
    let (uptime, _) = device.ask("cat /proc/uptime")?;
    println!("        both apps seen at {uptime}");
    limited(device)?;
    device.power_cut();
    device.boot(true)?;
    device.apps_run(0)
}

fn kill(device: &mut Device) -> Done {
    let before = device.pids()?;
    for service in [AGENT, KEEPER, GUARD] {
        let old = device.ok(service)?;
        device.ok(&format!("kill -9 {old}"))?;
        device.until(&format!("new=$({service}) && [ $new != {old} ] && echo again"), "again")?;
        started(device)?;
        device.apps_run(0)?;
        // Nothing of OpenRC ends what the keeper leaves behind.
        device.is("dunlin inspect --format '{{.State.Pid}}' db web", &before)?;
        device.is("dunlin exec web echo hello", "hello")?;
    }
    Ok(())
}

fn upgrade(device: &mut Device) -> Done {
    let before = device.pids()?;
    let old = device.ok(&format!("{GUARD} && {KEEPER}"))?;
    device.ok("rc-service dunlin-keeper reload")?;
    device.until("dunlin exec web echo hello", "hello")?;
    device.is(&format!("{GUARD} && {KEEPER}"), &old)?;
    device.ok(&format!("dpkg --force-confold -i /root/packages/{NEXT}.deb"))?;
    started(device)?;
    device.is("dunlin version --format '{{.Client.Version}}'", NEXT)?;
    device.is("dunlin inspect --format '{{.State.Pid}}' db web", &before)?;
    device.is(
        &format!("readlink /proc/$({KEEPER})/exe /proc/$({AGENT})/exe"),
        "/usr/bin/dunlin\n/usr/bin/dunlin",
    )?;
    device.is(&format!("{GUARD} && {KEEPER}"), &old)?;
    let activity = device.send(1);
    device.committed(&activity)?;
    device.apps_run(1)?;
    limited(device)
}

fn stop(device: &mut Device) -> Done {
    let said = device.ok("rc-service dunlin-keeper stop")?;
    println!("        {}", said.replace('\n', "\n        "));
    device.is(STATUS, "stopped\nstopped")?;
    device.is(&format!("pgrep -c -u dunlin; ls {TREE} 2>/dev/null | grep c-"), "0")?;
    device.ok("rc-service dunlin start")?;
    started(device)?;
    device.apps_run(1)?;
    limited(device)
}

fn purge(device: &mut Device) -> Done {
    device.ok("dpkg --purge dunlin")?;
    device.is("ps -eo args | grep -c '[d]unlin'", "0")?;
    device.is(
        "getent passwd dunlin; ls -d /var/lib/dunlin /run/dunlin /etc/dunlin 2>/dev/null",
        "",
    )
}

fn started(device: &mut Device) -> Done {
    device.until(STATUS, "started\nstarted")?;
    device.is("stat -c '%U %a' /var/lib/dunlin /run/dunlin", "dunlin 700\ndunlin 700")
}

/// Both apps have their limits, in the tree that the script made.
fn limited(device: &mut Device) -> Done {
    let limits = format!("cat {TREE}/c-*/memory.max | sort | uniq -c | tr -s ' '");
    device.is(&limits, &format!("2 {}", 24 << 20))
}
