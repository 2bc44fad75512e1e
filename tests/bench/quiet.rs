//! Row N25: ten containers idle without probes, the agent is connected over TLS, its watchdog is fed; what dunlin's processes do in some
//! minutes. In a network of its own, so that what goes over the wire is counted as well; a month of that is row N19.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::device::{Device, LONG, Setup};
use super::fixture::child::Running;
use super::fixture::images::{Format, Index};
use super::mqtt::{FRAME, MONTH_S, counted};
use super::process::Work;
use super::table::{Figure, Table};
use super::{Scale, TEN, footprint};

/// Time to say everything before it counts as idle.
const SETTLE: Duration = Duration::from_secs(30);
/// How often what the watchdog was told is read.
const LOOK: Duration = Duration::from_secs(20);
/// As the agent's unit says, microseconds.
const WATCHDOG: &str = "60000000";

/// Measures for so many minutes.
pub fn rows(table: &mut Table, scale: &Scale) {
    let minutes = scale.minutes.unwrap_or(10);
    let what = format!("{TEN} idle containers without probes, watchdog fed, {minutes} min");
    match watch(Duration::from_secs(minutes.max(1) * 60)) {
        Ok(figures) => table.row("N25", &what, "≤ 0.2/s; ≤ 0.01 %; 0 bytes in an hour", figures),
        Err(why) => table.missing("N25", &what, &why),
    }
}

fn watch(span: Duration) -> Result<Vec<Figure>, String> {
    // No other thread is there yet; what is started below comes along.
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network of its own: {error}"))?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    if !up.is_ok_and(|status| status.success()) {
        return Err("loopback does not come up".to_owned());
    }
    let setup = Setup {
        tls: true,
        ..Setup::default()
    };
    let mut device = Device::new("bench-quiet", &setup)?;
    let socket = device.scratch.join("notify");
    let manager = UnixDatagram::bind(&socket).map_err(|error| error.to_string())?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).map_err(|error| error.to_string())?;
    device.start_with(|agent| agent.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", WATCHDOG));
    let agent = device.agent.as_mut().expect("it was started");
    agent.wait_for("connected to the broker", LONG);
    let image = device.registry.push("idle", "1", &Index::busybox(Format::Oci));
    let activity = device.deploy(footprint::ten(&image));
    device.wait_state(&activity, "COMMITTED");
    // The bench's own subscription would have pings too.
    device.watch.end();
    std::thread::sleep(SETTLE);
    let mut pids = ["keeper", "monitor", "worker", "decode"]
        .map(|role| device.role(role))
        .concat();
    pids.extend(device.agent.as_ref().map(Running::pid));
    fed(&manager);
    let (before, wire, began) = (Work::of(&pids), counted(), Instant::now());
    let mut times = 0;
    while let Some(left @ 1..) = span.checked_sub(began.elapsed()).map(|left| left.as_millis()) {
        // A full socket would hold the agent.
        std::thread::sleep(LOOK.min(Duration::from_millis(left as u64)));
        times += fed(&manager);
    }
    let (after, end, took) = (Work::of(&pids), counted(), began.elapsed().as_secs_f64());
    let (bytes, packets) = (end.0 - wire.0, end.1 - wire.1);
    let ip = bytes - packets * FRAME;
    let alive = pids
        .iter()
        .filter(|pid| fs::exists(format!("/proc/{pid}")).unwrap_or(false))
        .count();
    device.clean();
    if alive < pids.len() {
        return Err(format!("{alive} of {} processes are left", pids.len()));
    }
    let wakeups = (after.wakeups - before.wakeups) as f64;
    let cpu = (after.cpu - before.cpu).as_secs_f64();
    let written = (after.written - before.written) as f64;
    let month = ip as f64 / took * MONTH_S;
    Ok(vec![
        Figure::new("wake-ups", wakeups / took, "/s").note(format!("{wakeups} of {} processes", pids.len())),
        Figure::new("CPU", cpu / took * 100.0, "%").note(format!("{:.1} ms", cpu * 1e3)),
        Figure::new("written", written, "bytes"),
        Figure::new("on the wire", ip as f64, "bytes")
            .note(format!("{packets} packets; {:.2} MB in a month", month / 1e6)),
        Figure::new("watchdog fed", times as f64, "times"),
    ])
}

/// How often the watchdog was fed since the last look.
fn fed(manager: &UnixDatagram) -> usize {
    let mut message = [0; 512];
    manager.set_nonblocking(true).expect("a socket");
    let mut count = 0;
    while let Ok(length) = manager.recv(&mut message) {
        count += usize::from(String::from_utf8_lossy(&message[..length]).contains("WATCHDOG=1"));
    }
    count
}
