//! Capabilities and groups that nobody has asked for.

use super::bundles;
use crate::skip;
use serde_json::json;

#[test]
fn capabilities_are_inherited_only_where_that_is_asked_for() {
    let read =
        "while read -r line; do case $line in CapInh*|CapAmb*) echo ${line##*0000}.;; esac; done </proc/self/status";
    for bundle in bundles("hard-caps") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        bundle.edit(|spec| spec["process"]["args"] = json!(["sh", "-c", read]));
        assert_eq!(bundle.run_once("one").expect(0).stdout, ".\n.\n", "by default");
        bundle.detach("two", "exec sleep 100");
        let exec = |more: &[&str]| {
            let args = [&["exec"], more, &["two", "sh", "-c", read]].concat();
            bundle.command(&args).ok()
        };
        assert_eq!(exec(&[]), ".\n.", "exec");
        assert_eq!(exec(&["--cap", "CAP_NET_RAW"]), ".\n.", "exec with one more");
        bundle.command(&["delete", "-f", "two"]).ok();
        bundle.edit(|spec| {
            spec["process"]["args"] = json!(["sh", "-c", read]);
            spec["process"]["capabilities"]["inheritable"] = json!(["CAP_KILL"]);
            spec["process"]["capabilities"]["ambient"] = json!(["CAP_KILL"]);
        });
        assert_eq!(
            bundle.run_once("one").expect(0).stdout,
            "20.\n20.\n",
            "where they are asked for"
        );
    }
}

#[test]
fn a_user_with_one_id_cannot_drop_groups() {
    let Some(Ok(bundle)) = bundles("hard-groups").pop() else {
        skip!("needs root and useradd");
    };
    // Being in a group may be what keeps its members out.
    bundle.edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SETGID", "CAP_SETUID"]);
        }
        let script = "cat /proc/self/setgroups; busybox su root -c true";
        spec["process"]["args"] = json!(["sh", "-c", script]);
    });
    std::fs::write(bundle.path().join("rootfs/etc/passwd"), "root::0:0:root:/:/bin/sh\n").unwrap();
    std::fs::write(bundle.path().join("rootfs/etc/group"), "root:x:0:root\n").unwrap();
    let out = bundle.run_once("one");
    assert_eq!(out.stdout, "deny\n");
    assert!(out.code != 0 && out.stderr.contains("not permitted"), "{out:?}");
}
