//! Open descriptors and working directories of whoever calls the runtime: nothing of the host is seen through them.

use super::bundles;
use crate::fixture::cmd::{Cmd, Out, dunlin};
use crate::runtime_cli::bundle::Bundle;
use crate::skip;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// The runtime with directories of the host open under the numbers 3 to 9, kept by exec, and in one of them.
fn leaking(bundle: &Bundle, args: &[&str]) -> Out {
    let open = "exec 3</ 4</etc 5</proc 6</ 7</sys/fs/cgroup 8</usr 9</; cd /etc; exec \"$@\"";
    let shell = Cmd::new("/bin/sh").args(["-c", open, "sh"]).arg(dunlin());
    bundle
        .as_owner(shell)
        .args(["runtime", "--root"])
        .arg(bundle.root())
        .args(args)
        .run()
}

fn launch(bundle: &Bundle, verb: &[&str], id: &str) -> Out {
    let path = bundle.path();
    bundle.place(id);
    leaking(bundle, &[verb, &["-b", path.to_str().unwrap(), id]].concat())
}

#[test]
fn open_directories_of_the_caller_are_not_seen() {
    let list = "for fd in /proc/self/fd/*; do readlink $fd >/dev/null && echo ${fd##*/}; done; pwd";
    for bundle in bundles("hard-fds") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        bundle.edit(|spec| spec["process"]["args"] = json!(["sh", "-c", list]));
        let said = launch(&bundle, &["run"], "one").expect(0).stdout;
        assert_eq!(said, "0\n1\n2\n/\n", "run");

        bundle.edit(|spec| spec["process"]["args"] = json!(["sleep", "100"]));
        launch(&bundle, &["create"], "two").expect(0);
        let pid = bundle.state("two")["pid"].as_u64().unwrap();
        // The first three are the caller's streams; the rest is a socket that waits for the start.
        for (number, link) in links(pid).into_iter().filter(|(number, _)| *number > 2) {
            assert!(
                link.to_string_lossy().starts_with("socket:"),
                "{number} of the waiting process is {}",
                link.display()
            );
        }
        for name in ["root", "cwd"] {
            let link = fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
            assert_eq!(link, Path::new("/"), "{name}, in the container's mounts");
            let etc = fs::read_dir(format!("/proc/{pid}/{name}/etc")).unwrap().count();
            assert_eq!(etc, 0, "{name} is the image's");
        }
        bundle.run(&["start", "two"]).ok();
        let said = leaking(&bundle, &["exec", "two", "sh", "-c", list]).expect(0).stdout;
        assert_eq!(said, "0\n1\n2\n/\n", "exec");
        bundle.run(&["delete", "-f", "two"]).ok();
    }
}

fn links(pid: u64) -> Vec<(u32, PathBuf)> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    all.map(|entry| {
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        (number, fs::read_link(entry.path()).unwrap())
    })
    .collect()
}

#[test]
fn no_working_directory_leads_to_the_host() {
    for bundle in bundles("hard-cwd") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        bundle.edit(|spec| spec["process"]["args"] = json!(["sleep", "100"]));
        launch(&bundle, &["run", "-d"], "two").expect(0);
        let mut ways: Vec<String> = (0..20).map(|number| format!("/proc/self/fd/{number}")).collect();
        ways.extend((3..20).map(|number| format!("/proc/self/fd/{number}/../..")));
        ways.extend(["/proc/self/task/self/cwd", "/proc/thread-self/fd/9"].map(str::to_owned));
        for way in &ways {
            bundle.edit(|spec| {
                spec["process"]["args"] = json!(["sh", "-c", "pwd; ls -a ."]);
                spec["process"]["cwd"] = json!(way);
            });
            let run = launch(&bundle, &["run"], "one");
            assert_eq!(run.code, 1, "{way}: {run:?}");
            let exec = leaking(&bundle, &["exec", "--cwd", way, "two", "ls", "-a", "."]);
            assert_eq!((exec.code, exec.stdout.as_str()), (255, ""), "{way}: {exec:?}");
        }
        // What the image calls so is no better.
        std::os::unix::fs::symlink("/proc/self/fd/8", bundle.path().join("rootfs/way")).unwrap();
        bundle.edit(|spec| spec["process"]["cwd"] = json!("/way"));
        launch(&bundle, &["run"], "one").expect(1).says(&["/way"]);
        leaking(&bundle, &["exec", "--cwd", "/way/etc", "two", "ls"])
            .expect(255)
            .says(&["/way"]);
        bundle.run(&["delete", "-f", "two"]).ok();
    }
}
