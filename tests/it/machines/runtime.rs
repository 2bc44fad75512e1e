//! `dunlin runtime` on real kernels with cgroup v2, both architectures: every controller's file, programs for devices that
//! really deny, the freezer, `cgroup.kill`, events, and ordinary users with and without a delegated group.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::arch::Arch;
use crate::fixture::scratch::Scratch;
use crate::fixture::vm::{Vm, make_disk};
use crate::skip;

const MIB: u64 = 1 << 20;

/// Runs in the guest. The bundles are those of [`bundles`].
const SCRIPT: &str = r#"
    set -e
    mkdir -p /rootfs/bin /rootfs/proc /rootfs/dev /rootfs/sys /rootfs/tmp /rootfs/etc
    cp /bin/busybox /rootfs/bin/
    for name in sh sleep cat echo dd mknod mkdir true id head; do ln -s busybox /rootfs/bin/$name; done
    cg=/sys/fs/cgroup/test
    section() { echo "- $* ($(cut -d ' ' -f 1 /proc/uptime) s)"; }
    fail() { echo "FAILED: $*"; exit 1; }
    r() { dunlin runtime --root /run/rt "$@"; }
    up() { r run -d -b /bundles/$1 $1 </dev/null >/tmp/$1.out 2>&1 || fail "$1 does not start: $(cat /tmp/$1.out)"; }
    down() { r delete -f $1 || fail "delete of $1"; [ ! -e $cg/$1 ] || fail "the group of $1 stays"; }
    is() { [ "$(cat $cg/$1)" = "$2" ] || fail "$1 is $(cat $cg/$1) and not $2"; }
    has() { grep -q "$2" $cg/$1 || fail "$1 is $(cat $cg/$1), without $2"; }
    refused() { # NAME TEXT: the bundle is refused, the text names the field, and nothing is left
        if r run -d -b /bundles/$1 $1 </dev/null >/tmp/said 2>&1; then fail "$1 is taken"; fi
        grep -q "$2" /tmp/said || fail "$1: $(cat /tmp/said)"
        [ ! -e $cg/$1 ] || fail "the group of $1 stays"
        if r state $1 >/dev/null 2>&1; then fail "$1 is there"; fi
    }
    status() { r state $1 | sed -n 's/.*"status": "\(.*\)".*/\1/p'; }
    await() { for _ in $(seq 100); do [ "$(status $1)" = $2 ] && return; usleep 50000; done; fail "$1 is not $2: $(status $1)"; }
    until_has() { for _ in $(seq 100); do grep -q "$2" $1 && return; usleep 50000; done; fail "$1 has no $2: $(cat $1)"; }

    section every controller
    up limits
    is limits/memory.max 67108864
    is limits/memory.low 33554432
    is limits/memory.swap.max 33554432
    is limits/memory.high 50331648
    is limits/cpu.weight 20
    is limits/cpu.max "50000 100000"
    is limits/cpu.max.burst 20000
    is limits/cpuset.cpus 0
    is limits/cpuset.mems 0
    is limits/pids.max 30
    has limits/io.max "^254:0 rbps=1048576 wbps=2097152 riops=300 wiops=400$"
    is limits/hugetlb.2MB.max 4194304
    [ ! -e $cg/limits/hugetlb.2MB.rsvd.max ] || is limits/hugetlb.2MB.rsvd.max 4194304
    has limits/cgroup.procs "^$(r state limits | sed -n 's/.*"pid": \(.*\),/\1/p')$"

    section changed while it runs
    r update --memory 134217728 --memory-swap 134217728 --pids-limit 50 limits
    is limits/memory.max 134217728
    is limits/memory.swap.max 0
    is limits/pids.max 50
    is limits/cpu.max "50000 100000"
    r update --memory-swap 201326592 limits
    is limits/memory.swap.max 67108864
    r update --memory -1 limits
    is limits/memory.max max
    is limits/memory.swap.max max
    r update --cpu-period 200000 limits
    is limits/cpu.max "50000 200000"
    r update --cpu-quota 10000 --cpu-burst 5000 limits
    is limits/cpu.max "10000 200000"
    is limits/cpu.max.burst 5000
    r update --cpu-quota -1 --cpu-share 262144 --cpuset-cpus 0-1 --pids-limit -1 --memory-reservation 1048576 limits
    is limits/cpu.max "max 200000"
    is limits/cpu.weight 10000
    is limits/cpuset.cpus 0-1
    is limits/pids.max max
    is limits/memory.low 1048576
    echo '{"unified":{"memory.high":"max"},"blockIO":{"throttleReadBpsDevice":[{"major":254,"minor":0,"rate":0}]}}' |
        r update -r - limits
    is limits/memory.high max
    has limits/io.max "^254:0 rbps=max wbps=2097152 riops=300 wiops=400$"
    echo '{"memory":{"limit":4096,"checkBeforeUpdate":true}}' >/tmp/less
    if r update -r /tmp/less limits 2>/tmp/said; then fail "a limit below what is used is taken"; fi
    grep -q 'linux.resources.memory.limit.*used already' /tmp/said || fail "$(cat /tmp/said)"
    is limits/memory.max max
    down limits
    up unlimited
    is unlimited/memory.max max
    is unlimited/memory.swap.max max
    is unlimited/pids.max max
    is unlimited/cpu.idle 1
    r update --cpu-idle 0 --cpu-share 2 unlimited
    is unlimited/cpu.idle 0
    is unlimited/cpu.weight 1
    down unlimited

    section weights of block devices
    if [ -e /sys/fs/cgroup/session/io.weight ]; then up weight; has weight/io.weight "^default 4950$"; down weight
    elif [ -e /sys/fs/cgroup/session/io.bfq.weight ]; then up weight; has weight/io.bfq.weight 500; down weight
    else refused weight 'linux.resources.blockIO.weight`'; fi

    section what cannot be had is refused by its name
    refused unified 'linux.resources.unified.*no.such.file'
    refused swap 'linux.resources.memory.swap`'
    refused swappiness 'linux.resources.memory.swappiness`'
    refused realtime 'linux.resources.cpu.realtimeRuntime`'
    refused network 'linux.resources.network.classID`'
    refused rdma 'linux.resources.rdma`'
    refused huge 'linux.resources.hugepageLimits`.*hugetlb.3MB.max'
    refused pipe 'linux.resources.devices`.*a pipe is no device'

    section devices
    tries() { # NAME: what comes of every node in the container
        r exec $1 sh -c 'cd /dev; for n in null zero urandom ptmx k vda n60 n61 n62; do
            for way in r w; do
                if [ $way = r ]; then (exec 3<$n) 2>/said; else (exec 3>$n) 2>/said; fi && said=yes || said=$(cat /said)
                case "$said" in yes) ;; *"not permitted"*) said=no;; *"No such device"*) said=none;; esac
                echo "$n-$way=$said"
            done
        done'
    }
    nodes() { # No driver has 240.
        r exec $1 sh -c 'cd /dev; mknod k c 5 1; mknod vda b 254 0; for n in 60 61 62; do mknod n$n c 240 $n; done' ||
            fail "$1: nodes"
    }
    expect() { tries $1 >/tmp/tries; for what in $2; do
        grep -q "^$what$" /tmp/tries || fail "$1: not $what: $(cat /tmp/tries)"; done; }
    defaults="null-r=yes null-w=yes zero-r=yes urandom-w=yes ptmx-r=yes"
    up devices
    nodes devices
    r state devices | grep -q left-out && fail "left out: $(r state devices)"
    expect devices "$defaults k-r=yes k-w=no vda-r=no vda-w=no n60-r=none n60-w=none n61-r=none n61-w=no n62-r=no n62-w=no"

    section "devices: other rules, at no moment none"
    r exec -d devices sh -c 'i=0; while [ ! -e /stop ]; do if true </dev/vda; then echo opened >>/leak; fi; i=$((i+1)); echo $i >/tried
        done 2>/dev/null'
    for n in 60 61 62 60 61 62 60 61 62; do
        echo '{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":240,"minor":'$n',"access":"r"}]}' |
            r update -r - devices
    done
    echo >/rootfs/stop
    echo "$(cat /rootfs/tried) tries"
    [ "$(cat /rootfs/tried)" -gt 20 ] || fail "hardly tried"
    [ ! -e /rootfs/leak ] || fail "the disk was open for a moment"
    expect devices "$defaults k-r=no vda-r=no n60-r=no n61-r=no n62-r=none n62-w=no"
    r update --pids-limit 99 devices
    expect devices "n60-r=no n62-r=none"
    echo '{"devices":[{"allow":true},{"allow":false,"type":"c","major":240,"access":"w"}]}' | r update -r - devices
    expect devices "k-r=yes k-w=yes vda-r=yes n60-r=none n60-w=no n62-r=none"
    down devices
    up norules
    nodes norules
    expect norules "$defaults k-r=no vda-r=no n60-r=no n62-w=no"
    down norules
    up privileged
    nodes privileged
    expect privileged "$defaults k-r=yes k-w=yes vda-r=yes n60-r=none n60-w=none"
    echo '{"devices":[{"allow":false}]}' | r update -r - privileged
    expect privileged "$defaults k-r=no vda-r=no n60-r=no"
    down privileged

    section real time and labels
    up realtimed
    cut -d ')' -f 2 /proc/$(r state realtimed | sed -n 's/.*"pid": \(.*\),/\1/p')/stat | awk '{ print $38, $39 }' >/tmp/said
    [ "$(cat /tmp/said)" = "7 1" ] || fail "priority and policy are $(cat /tmp/said)"
    down realtimed
    grep -q Y /sys/module/apparmor/parameters/enabled || fail "this kernel was said to have AppArmor"
    up unconfined
    [ "$(r exec unconfined cat /proc/self/attr/apparmor/current)" = unconfined ] || fail "no label"
    code=0; r exec --apparmor nosuch unconfined true 2>/tmp/said || code=$?
    [ $code = 255 ] && grep -q 'AppArmor profile `nosuch`' /tmp/said || fail "exec --apparmor: $code $(cat /tmp/said)"
    down unconfined
    refused profile 'AppArmor profile `nosuch`: No such file'
    refused context 'process.selinuxLabel`: SELinux is not enabled'

    section freezer
    up ticks
    until_has /tmp/ticks.out 3
    r pause ticks
    [ "$(status ticks)" = paused ] || fail "status $(status ticks)"
    is ticks/cgroup.freeze 1
    before=$(cat /tmp/ticks.out); usleep 300000
    [ "$before" = "$(cat /tmp/ticks.out)" ] || fail "it goes on"
    code=0; r exec ticks true 2>/tmp/said || code=$?
    [ $code = 255 ] && grep -q 'paused container' /tmp/said || fail "exec: $code $(cat /tmp/said)"
    r delete ticks 2>/dev/null && fail "a paused container is deleted"
    r exec --ignore-paused ticks echo thawed >/tmp/thawed 2>&1 &
    waits=$!
    usleep 500000
    [ ! -s /tmp/thawed ] || fail "exec runs in a paused container"
    r resume ticks
    wait $waits
    grep -q thawed /tmp/thawed || fail "exec: $(cat /tmp/thawed)"
    [ "$(status ticks)" = running ] || fail "status $(status ticks)"
    r pause ticks
    r kill ticks KILL
    await ticks stopped
    r delete ticks
    up ticks
    r pause ticks
    down ticks

    section 'cgroup.kill'
    for way in kill delete; do
        up family
        until_has /tmp/family.out ready
        [ "$(cat $cg/family/cgroup.procs $cg/family/sub/cgroup.procs | wc -l)" -ge 3 ] || fail "$(cat $cg/family/cgroup.procs)"
        pids=$(cat $cg/family/cgroup.procs $cg/family/sub/cgroup.procs)
        if [ $way = kill ]; then r kill --all family KILL; await family stopped; fi
        down family
        for pid in $pids; do ! grep -q '^State:.[^Z]' /proc/$pid/status 2>/dev/null || fail "$pid lives"; done
    done
    up family
    until_has /tmp/family.out ready
    pids=$(cat $cg/family/cgroup.procs $cg/family/sub/cgroup.procs)
    # A process joins the group that it names, and its first process's own where the container's holds none any more.
    r exec --cgroup /sub family sh -c 'cat /proc/self/cgroup' >/tmp/said
    grep -q '/sub$' /tmp/said || fail "exec --cgroup: $(cat /tmp/said)"
    for path in no/such ../family; do
        if r exec --cgroup $path family true 2>/tmp/said; then fail "exec --cgroup $path is taken"; fi
        grep -q 'is not a group below' /tmp/said || fail "$(cat /tmp/said)"
    done
    mkdir $cg/family/init
    for pid in $(cat $cg/family/cgroup.procs); do echo $pid >$cg/family/init/cgroup.procs; done
    echo +pids >$cg/family/cgroup.subtree_control
    r exec family sh -c 'cat /proc/self/cgroup' >/tmp/said
    grep -q '/init$' /tmp/said || fail "exec: $(cat /tmp/said)"
    r kill family KILL
    await family stopped
    r delete family
    for pid in $pids; do ! grep -q '^State:.[^Z]' /proc/$pid/status 2>/dev/null || fail "$pid lives"; done

    section events
    up memory
    r events --stats memory >/tmp/stats
    for what in '"type":"stats"' '"limit":33554432' '"psi":{"full":{"avg10":[0-9.]*,"avg300":' '"raw":{"[^}]*"anon":[1-9]' '"pids":{"current":1,"limit":20}' '"usage":[1-9]'; do
        grep -q "$what" /tmp/stats || fail "no $what in $(cat /tmp/stats)"
    done
    # No interval passes in this time.
    r events --interval 600s memory >/tmp/events 2>&1 &
    listens=$!
    usleep 500000
    [ ! -s /tmp/events ] || fail "$(cat /tmp/events)"
    code=0; r exec memory dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null || code=$?
    [ $code = 137 ] || fail "the hog ended with $code"
    until_has /tmp/events '"type":"oom"'
    [ "$(cat /tmp/events)" = '{"id":"memory","type":"oom"}' ] || fail "$(cat /tmp/events)"
    [ "$(status memory)" = running ] || fail "status $(status memory)"
    down memory
    wait $listens || fail "events ended with $?: $(cat /tmp/events)"
    [ "$(cat /tmp/events)" = '{"id":"memory","type":"oom"}' ] || fail "$(cat /tmp/events)"

    section "systemd's paths"
    r --systemd-cgroup run -d -b /bundles/systemd systemd </dev/null >/tmp/said 2>&1 || fail "$(cat /tmp/said)"
    [ "$(cat /sys/fs/cgroup/machine.slice/machine-a.slice/dunlin-x.scope/pids.max)" = 7 ] || fail "no group of systemd's kind"
    r delete -f systemd

    section an ordinary user with a delegated group
    as dunlin mkdir /sys/fs/cgroup/dunlin/shell
    cat >/bin/shell <<'END'
#!/bin/sh
# As `dunlin`, in a group of the delegated tree that is not the tree itself.
echo $$ >/sys/fs/cgroup/dunlin/shell/cgroup.procs
exec as dunlin dunlin runtime "$@"
END
    chmod +x /bin/shell
    r() { shell "$@"; }
    cg=/sys/fs/cgroup/dunlin
    up user
    is user/memory.max 67108864
    is user/memory.swap.max 0
    is user/pids.max 30
    is user/cpu.max "50000 100000"
    r state user | grep -q '"io.dunlin.left-out": "linux.resources.devices"' || fail "$(r state user)"
    r update --pids-limit 20 user
    is user/pids.max 20
    echo '{"devices":[{"allow":false}]}' | r update -r - user
    code=0; r exec user dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null || code=$?
    [ $code = 137 ] || fail "the hog ended with $code"
    r pause user
    [ "$(status user)" = paused ] || fail "status $(status user)"
    r resume user
    down user
    up light
    if r state light | grep -q left-out; then fail "$(r state light)"; fi
    echo '{"devices":[{"allow":false}]}' | r update -r - light
    r state light | grep -q '"io.dunlin.left-out": "linux.resources.devices"' || fail "$(r state light)"
    down light

    section an ordinary user without a group
    r() { as plain dunlin runtime "$@"; }
    refused other 'linux.resources.memory.limit`: there is no control group'
    refused pids 'linux.resources.pids.limit`: there is no control group'
    up bare
    [ "$(status bare)" = running ] || fail "status $(status bare)"
    r state bare | grep -q '"io.dunlin.left-out": "linux.resources.devices"' || fail "$(r state bare)"
    r update --pids-limit 20 bare 2>/tmp/said && fail "a limit without a group is taken"
    grep -q 'no control group' /tmp/said || fail "$(cat /tmp/said)"
    down bare
    section done
    echo all of it holds
"#;

fn config(resources: Value, script: &str) -> Value {
    let caps = json!(["CAP_MKNOD", "CAP_KILL", "CAP_DAC_OVERRIDE"]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
        },
        "root": { "path": "/rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["newinstance", "ptmxmode=0666", "mode=0620"] },
        ],
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "cgroup" }],
            "resources": resources,
        },
    })
}

/// The same for an ordinary user's ids.
fn of_user(uid: u32, resources: Value) -> Value {
    let mut config = config(resources, SLEEPS);
    let map = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "type": "user" }));
    config
}

const SLEEPS: &str = "exec sleep 1000";

/// Those whose resources alone make the difference.
fn plain_bundles() -> Vec<(&'static str, Value)> {
    let rule = |minor: u32, access: &str| json!({ "allow": true, "type": "c", "major": 240, "minor": minor, "access": access });
    let disk = |rate: u64| json!([{ "major": 254, "minor": 0, "rate": rate }]);
    let limits = json!({
        "memory": { "limit": 64 * MIB, "reservation": 32 * MIB, "swap": 96 * MIB },
        "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "burst": 20_000, "cpus": "0", "mems": "0" },
        "pids": { "limit": 30 },
        "blockIO": {
            "throttleReadBpsDevice": disk(MIB), "throttleWriteBpsDevice": disk(2 * MIB),
            "throttleReadIOPSDevice": disk(300), "throttleWriteIOPSDevice": disk(400),
        },
        "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 * MIB }],
        "unified": { "memory.high": "50331648" },
    });
    let devices = json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "major": 5, "minor": 1, "access": "r" },
        rule(60, "rw"), rule(61, "rw"),
        { "allow": false, "type": "c", "major": 240, "minor": 61, "access": "w" },
    ]);
    vec![
        ("limits", limits),
        (
            "unlimited",
            json!({ "memory": { "limit": -1, "swap": -1 }, "cpu": { "idle": 1 }, "pids": { "limit": -1 } }),
        ),
        ("weight", json!({ "blockIO": { "weight": 500 } })),
        ("unified", json!({ "unified": { "no.such.file": "1" } })),
        ("swap", json!({ "memory": { "limit": 64 * MIB, "swap": 32 * MIB } })),
        ("swappiness", json!({ "memory": { "swappiness": 10 } })),
        ("realtime", json!({ "cpu": { "realtimeRuntime": 1000 } })),
        ("network", json!({ "network": { "classID": 1 } })),
        ("rdma", json!({ "rdma": { "mlx5_1": { "hcaHandles": 3 } } })),
        ("huge", json!({ "hugepageLimits": [{ "pageSize": "3MB", "limit": 0 }] })),
        ("pipe", json!({ "devices": [{ "allow": true, "type": "p" }] })),
        ("devices", json!({ "devices": devices })),
        ("norules", json!({})),
        ("privileged", json!({ "devices": [{ "allow": true, "access": "rwm" }] })),
        (
            "memory",
            json!({ "memory": { "limit": 32 * MIB, "swap": 32 * MIB }, "pids": { "limit": 20 } }),
        ),
    ]
}

/// Every bundle's name and `config.json`.
fn bundles() -> Vec<(&'static str, Value)> {
    let mut all: Vec<(&str, Value)> = plain_bundles()
        .into_iter()
        .map(|(name, resources)| (name, config(resources, SLEEPS)))
        .collect();
    all.push((
        "ticks",
        config(json!({}), "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"),
    ));
    // Processes beside the first one, one of them in a group below.
    let script = "sleep 1000 & mkdir /sys/fs/cgroup/sub
        sh -c 'echo $$ >/sys/fs/cgroup/sub/cgroup.procs; exec sleep 1001' &
        while [ -z \"$(cat /sys/fs/cgroup/sub/cgroup.procs)\" ]; do sleep 0.05; done; echo ready; wait";
    let mut family = config(json!({}), script);
    let linux = &mut family["linux"];
    linux["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|one| one["type"] != "pid");
    family["mounts"].as_array_mut().unwrap().push(json!(
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "rw"] }
    ));
    all.push(("family", family));
    for (name, field, value) in [
        (
            "realtimed",
            "scheduler",
            json!({ "policy": "SCHED_FIFO", "priority": 7 }),
        ),
        ("unconfined", "apparmorProfile", json!("unconfined")),
        ("profile", "apparmorProfile", json!("nosuch")),
        ("context", "selinuxLabel", json!("user_u:object_r:x_t:s0")),
    ] {
        let mut config = config(json!({}), SLEEPS);
        config["process"][field] = value;
        all.push((name, config));
    }
    for (name, config) in &mut all {
        config["linux"]["cgroupsPath"] = json!(format!("/test/{name}"));
    }
    let mut systemd = config(json!({ "pids": { "limit": 7 } }), SLEEPS);
    systemd["linux"]["cgroupsPath"] = json!("machine-a.slice:dunlin:x");
    all.push(("systemd", systemd));
    let limits = json!({
        "memory": { "limit": 64 * MIB, "swap": 64 * MIB },
        "cpu": { "quota": 50_000, "period": 100_000 },
        "pids": { "limit": 30 },
        "devices": [{ "allow": false, "access": "rwm" }],
    });
    let devices = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
    all.push(("user", of_user(1000, limits)));
    all.push(("light", of_user(1000, json!({ "pids": { "limit": 30 } }))));
    all.push(("other", of_user(1001, json!({ "memory": { "limit": 64 * MIB } }))));
    all.push(("pids", of_user(1001, json!({ "pids": { "limit": 30 } }))));
    all.push(("bare", of_user(1001, devices)));
    all
}

fn control_groups_v2(arch: Arch) {
    let vm = match Vm::new(arch).and_then(Vm::dunlin) {
        Ok(vm) => vm,
        Err(reason) => skip!("{reason}"),
    };
    // For its numbers alone: rules and limits name a device.
    let scratch = Scratch::new("runtime-v2");
    let disk = scratch.join("disk");
    make_disk(&disk, 16);
    let vm = bundles().into_iter().fold(vm, |vm, (name, config)| {
        vm.text(&format!("/bundles/{name}/config.json"), config.to_string())
    });
    let outcome = vm.disk(&disk).timeout(Duration::from_secs(240)).run(SCRIPT);
    assert!(outcome.ok().contains("all of it holds"));
}

#[test]
fn bundles_have_control_groups_v2_on_x86_64() {
    control_groups_v2(Arch::X86_64);
}

#[test]
fn bundles_have_control_groups_v2_on_aarch64() {
    control_groups_v2(Arch::Aarch64);
}
