//! `events` without `--stats`: told when memory runs out, at once and once, on the hierarchies of this machine (v1; v2 is
//! the micro machines').

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bundle::Bundle;
use super::is_root;
use crate::skip;

#[test]
fn memory_that_runs_out_is_told_without_polling() {
    if !is_root() {
        skip!("needs root");
    }
    if !Path::new("/sys/fs/cgroup/memory/memory.oom_control").exists() {
        skip!("no v1 hierarchy for memory is mounted at /sys/fs/cgroup/memory");
    }
    let bundle = Bundle::of_root("cli-oom");
    let name = bundle.unique();
    bundle.edit(|spec| {
        spec["process"]["args"] = json!(["sleep", "100"]);
        spec["linux"]["cgroupsPath"] = json!(format!("/{name}"));
        spec["linux"]["resources"] = json!({"memory": {"limit": 32 << 20}});
    });
    bundle.run(&["run", "-d", "-b"]).arg_path(bundle.path()).arg("o").ok();
    // No interval passes in this test.
    let mut listens = bundle.command(&["events", "--interval", "600s", "o"]).into_command();
    let mut listens = listens.stdout(Stdio::piped()).spawn().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let lines = BufReader::new(listens.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        lines.map_while(Result::ok).for_each(|line| {
            let _ = tell.send(line);
        });
    });
    // Until it listens: its counter is known to the kernel when it waits in poll(2).
    let waits = format!("/proc/{}/wchan", listens.id());
    let end = Instant::now() + Duration::from_secs(10);
    while !std::fs::read_to_string(&waits).is_ok_and(|at| at.contains("poll")) {
        assert!(Instant::now() < end, "`events` does not wait");
        std::thread::sleep(Duration::from_millis(5));
    }
    let hog = "x=0123456789abcdef; while :; do x=$x$x; done";
    bundle.run(&["exec", "o", "sh", "-c", hog]).code(137);
    let line = told.recv_timeout(Duration::from_secs(10)).expect("an event");
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event, json!({"type": "oom", "id": "o"}));
    assert_eq!(bundle.state("o")["status"], "running", "the first process lives");
    bundle.run(&["delete", "-f", "o"]).ok();
    assert!(listens.wait().unwrap().success(), "it ends with the container");
    reader.join().unwrap();
    // A group that goes tells its counters so, which is no want of memory.
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [""; 0]);
}
