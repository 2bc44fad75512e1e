//! An ordinary user's own store, in that user's session of systemd.

use super::{Device, Done};

/// What the user types; the session is there without a login.
const AS: &str = "runuser -u pilot -- env -C /home/pilot HOME=/home/pilot XDG_RUNTIME_DIR=/run/user/$(id -u pilot) PATH=/usr/bin:/bin";
const LIMIT: u64 = 24 << 20;

pub fn session(device: &mut Device) -> Done {
    device.ok("useradd -m -s /bin/bash pilot && grep ^pilot: /etc/subuid /etc/subgid")?;
    device.ok("loginctl enable-linger pilot")?;
    let session = format!("{AS} systemctl --user is-system-running");
    device.until(&session, "running")?;
    let (host, image) = (super::HOST, device.images[0].clone());
    let registry = device.registry.port();
    device.ok(&format!(
        "{AS} mkdir -p .config/dunlin/apps && printf '%s\\n' '[registry]' \"insecure=['{host}:{registry}']\" | {AS} tee .config/dunlin/agent.toml"
    ))?;
    device.ok(&format!(
        "printf '%s\\n' \"name='box'\" \"image='{image}'\" \"command=['sh','-c','trap exit TERM; sleep 100000 & wait']\" '[limits]' \"memory='24M'\" | \
         {AS} tee .config/dunlin/apps/box.toml"
    ))?;
    device.ok(&format!("{AS} systemctl --user enable --now dunlin-keeper dunlin"))?;
    runs(device)?;
    limited(device)?;

    // The agent goes, its container does not.
    let container = format!("{AS} dunlin inspect --format '{{{{.State.Pid}}}}' box");
    let agent = format!("{AS} systemctl --user show -p MainPID --value dunlin");
    let (before, old) = (device.ok(&container)?, device.ok(&agent)?);
    device.ok(&format!("kill -9 {old}"))?;
    device.until(
        &format!("[ $({agent}) != {old} ] && {AS} systemctl --user is-active dunlin"),
        "active",
    )?;
    device.is(&container, &before)?;

    device.ok(&format!("{AS} systemctl --user stop dunlin-keeper"))?;
    device.is(
        &format!("{AS} systemctl --user is-active dunlin-keeper dunlin"),
        "inactive\ninactive",
    )?;
    let left =
        format!("ls -d {TREE} /home/pilot/.local/share/dunlin/*/*/merged/bin 2>/dev/null; pgrep -a -u pilot dunlin");
    device.is(&left, "")?;
    device.ok(&format!("{AS} systemctl --user start dunlin-keeper dunlin"))?;
    runs(device)?;

    // A boot, without a login and without a network.
    device.ok("sync")?;
    device.power_cut();
    device.boot(false)?;
    runs(device)?;
    limited(device)?;
    let (uptime, _) = device.ask("cat /proc/uptime; loginctl --no-legend list-sessions")?;
    println!("        the user's app was seen at {uptime}");
    device.ok(&format!("{AS} systemctl --user disable --now dunlin dunlin-keeper"))?;
    device.ok("loginctl disable-linger pilot").map(drop)
}

const TREE: &str =
    "/sys/fs/cgroup/user.slice/user-$(id -u pilot).slice/user@$(id -u pilot).service/app.slice/dunlin-keeper.service";

/// Waits until the services and the app are there.
fn runs(device: &mut Device) -> Done {
    device.until(
        &format!("{AS} systemctl --user is-active dunlin-keeper dunlin"),
        "active\nactive",
    )?;
    let shown = device.until(&format!("{AS} dunlin ps --format '{{{{.Names}}}}'"), "box");
    let Err(error) = shown else { return Ok(()) };
    let (said, _) = device.ask("journalctl -b _UID=$(id -u pilot) -o cat --no-pager | tail -n 40")?;
    Err(format!("{error}: {said}"))
}

/// The limit is in the tree that systemd gave the user.
fn limited(device: &mut Device) -> Done {
    device.is(&format!("cat {TREE}/c-*/memory.max"), &LIMIT.to_string())
}
