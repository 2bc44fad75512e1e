//! Procfs and control groups: what the host has there is not written, and what is meant for it goes nowhere else.

use super::{CorePattern, bundles, is_root};
use crate::runtime_cli::bundle::Bundle;
use crate::skip;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn settings_of_the_host_are_not_set_by_any_name() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("hard-sysctl");
    let core = CorePattern::watch();
    bundle.edit(|spec| spec["process"]["args"] = json!(["true"]));
    for key in [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "net/../kernel/core_pattern",
        "net.../../../kernel/core_pattern",
        "net/ipv4/../../kernel/core_pattern",
        "kernel/shmmax/../core_pattern",
        "fs/mqueue/../../kernel/core_pattern",
        "net.ipv4/./../../kernel.core_pattern",
        "/kernel/core_pattern",
        "net/ipv4/conf/all/../../../../kernel/core_pattern",
        "net..kernel",
        "../net/ipv4/ip_forward",
        "net/",
    ] {
        bundle.edit(|spec| spec["linux"]["sysctl"] = json!({key: "|/hacked"}));
        bundle.run_once("one").expect(1).says(&["sysctl"]);
        core.assert_untouched(key);
    }
}

#[test]
fn a_setting_does_not_go_where_a_mount_leads_it() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("hard-covered");
    let volume = bundle.share("vol");
    let trap = bundle.beside("trap");
    fs::create_dir(&trap).unwrap();
    fs::write(trap.join("ip_forward"), "mine").unwrap();
    symlink("/proc/sys/net/ipv4", volume.join("link")).unwrap();
    let plain = fs::read(bundle.path().join("config.json")).unwrap();
    for (place, source) in [
        ("/proc/sys/net/ipv4", "trap"),
        ("/vol/link", "trap"),
        ("/proc/sys/net/ipv4/ip_forward", "trap/ip_forward"),
    ] {
        fs::write(bundle.path().join("config.json"), &plain).unwrap();
        bundle.edit(|spec| {
            let mount =
                json!({"destination": place, "type": "bind", "source": bundle.beside(source), "options": ["bind"]});
            spec["mounts"].as_array_mut().unwrap().push(mount);
            spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
            spec["process"]["args"] = json!(["true"]);
        });
        bundle
            .run_once("one")
            .expect(1)
            .says(&["net.ipv4.ip_forward", "something else is mounted there"]);
        assert_eq!(fs::read(trap.join("ip_forward")).unwrap(), b"mine", "{place}");
    }
}

#[test]
fn settings_are_the_kernels_where_proc_is_something_else() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("hard-noproc");
    let trap = bundle.beside("trap");
    fs::create_dir_all(trap.join("sys/net/ipv4")).unwrap();
    fs::write(trap.join("sys/net/ipv4/ip_forward"), "mine").unwrap();
    fs::create_dir(bundle.path().join("rootfs/real")).unwrap();
    bundle.edit(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/proc");
        mounts.push(json!({"destination": "/proc", "type": "bind", "source": trap, "options": ["bind"]}));
        mounts.push(json!({"destination": "/real", "type": "proc", "source": "proc"}));
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        spec["process"]["oomScoreAdj"] = json!(321);
        // Without a procfs of its own a busybox does not find itself; its shell's own words do.
        let script =
            "read -r one </real/sys/net/ipv4/ip_forward; read -r two </real/self/oom_score_adj; echo $one $two";
        spec["process"]["args"] = json!(["sh", "-c", script]);
    });
    assert_eq!(bundle.run_once("one").expect(0).stdout, "1 321\n");
    assert_eq!(fs::read(trap.join("sys/net/ipv4/ip_forward")).unwrap(), b"mine");
}

#[test]
fn an_image_whose_proc_or_sys_is_a_link_is_refused() {
    for bundle in bundles("hard-proclink") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        bundle.edit(|spec| spec["process"]["args"] = json!(["true"]));
        let rootfs = bundle.path().join("rootfs");
        fs::create_dir(rootfs.join("elsewhere")).unwrap();
        let mut names = vec!["proc"];
        // A user's is a bind mount, which covers where the link leads.
        names.extend(bundle.is_roots().then_some("sys"));
        for name in names {
            for to in ["/elsewhere", "/missing", "../../.."] {
                fs::remove_dir(rootfs.join(name)).unwrap();
                symlink(to, rootfs.join(name)).unwrap();
                let out = bundle.run_once("one");
                assert!(
                    out.code == 1 && out.stderr.contains(&format!("`/{name}`")),
                    "{name} to {to}: {out:?}"
                );
                fs::remove_file(rootfs.join(name)).unwrap();
                fs::create_dir(rootfs.join(name)).unwrap();
            }
        }
    }
}

#[test]
fn control_groups_and_settings_cannot_be_written_from_inside() {
    let script = "
        try() { { echo hacked >\"$1\"; } 2>/dev/null && echo \"wrote $1\"; }
        try /proc/sys/kernel/core_pattern; try /proc/sys/kernel/modprobe; try /proc/sysrq-trigger
        try /proc/sys/fs/binfmt_misc/register; try /proc/irq/default_smp_affinity; try /sys/kernel/uevent_helper
        try /proc/sys/kernel/shmmax; try /proc/1/oom_score_adj
        for place in /sys/fs/cgroup /sys/fs/cgroup/*; do
            try $place/release_agent; try $place/notify_on_release; try $place/cgroup.procs; try $place/devices.allow
            busybox mkdir $place/new 2>/dev/null && echo \"made $place/new\"
        done
        for kind in memory rdma devices; do
            busybox mount -t cgroup -o $kind none /tmp 2>/dev/null && echo \"mounted $kind\"
        done
        busybox mount -t cgroup2 none /tmp 2>/dev/null && echo mounted
        busybox mount -t proc none /tmp 2>/dev/null && echo mounted
        busybox mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted
        busybox umount /proc/sys 2>/dev/null && echo uncovered
        busybox unshare -U -r -m true 2>/dev/null && busybox unshare -U -r -m busybox umount /proc/sys 2>/dev/null && echo uncovered
        echo end";
    let core = CorePattern::watch();
    for bundle in bundles("hard-cgroup") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        bundle.edit(|spec| spec["process"]["args"] = json!(["sh", "-c", script]));
        assert_eq!(bundle.run_once("one").expect(0).stdout, "end\n");
        core.assert_untouched("by a program");
    }
}
