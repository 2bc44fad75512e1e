//! The local loop on small machines: an initramfs as root, control groups v2, no overlay, no subordinate ids.

use crate::fixture::arch::Arch;
use crate::fixture::images::{Format, Index};
use crate::fixture::scratch::Scratch;
use crate::fixture::vm::Vm;
use crate::skip;
use std::time::Duration;

/// Runs in the guest; `loop_of COMMAND…` is the whole local loop with this dunlin.
const SCRIPT: &str = r#"
    set -e
    fail() { echo "FAILED: $*"; exit 1; }
    loop_of() {
        id=$("$@" pull -q oci:/layout:latest)
        [ "$("$@" run --rm "$id" sh -c 'id -u; echo $((6*7))')" = "0
42" ] || fail "run"
        code=0; "$@" run --rm "$id" sh -c 'exit 5' || code=$?
        [ $code = 5 ] || fail "exit code $code"
        "$@" run -d --name box -v data:/srv "$id" sh -c 'echo line; echo kept > /srv/file; sleep 1000' >/dev/null
        [ "$(echo typed | "$@" exec -i box cat)" = typed ] || fail "exec"
        sleep 1
        [ "$("$@" logs box)" = line ] || fail "logs: $("$@" logs box)"
        "$@" exec box sh -c 'mkdir -p /deep/er; echo changed > /deep/er/file'
        "$@" stop -t 0 box >/dev/null
        "$@" start box >/dev/null
        [ "$("$@" exec box cat /deep/er/file /srv/file)" = "changed
kept" ] || fail "what was written is gone"
        "$@" rm -f -t 0 box >/dev/null
        [ -z "$("$@" ps -aq)" ] || fail "containers are left"
    }

    echo "- an ordinary user with ranges, delegated"
    loop_of delegated dunlin
    echo "- an ordinary user with one id"
    loop_of as plain dunlin
    echo "- root on the system's store becomes its owner"
    loop_of dunlin
    [ -z "$(find /var/lib/dunlin /run/dunlin -user 0)" ] || fail "root's files: $(find /var/lib/dunlin /run/dunlin -user 0)"
    echo "- root on a store of its own, in a built-in range"
    mkdir -p /own
    loop_of dunlin --root /own/data --runroot /run/own
    id=$(dunlin --root /own/data --runroot /run/own images -q)
    dunlin --root /own/data --runroot /run/own run -d --name probe --memory 32m "$id" sleep 1000 >/dev/null
    pid=$(dunlin --root /own/data --runroot /run/own inspect --format '{{.State.Pid}}' probe)
    [ "$(awk '/^Uid:/ { print ($2 >= 1000) }' /proc/$pid/status)" = 1 ] || fail "the container's root is the host's"
    dunlin --root /own/data --runroot /run/own rm -f -t 0 probe >/dev/null

    echo "- without overlay"
    rmmod overlay || fail "overlay stays loaded"
    loop_of delegated dunlin
    loop_of as plain dunlin
    echo the whole loop works
"#;

fn whole_loop(arch: Arch) {
    let vm = match Vm::new(arch).and_then(Vm::dunlin) {
        Ok(vm) => vm,
        Err(reason) => skip!("{reason}"),
    };
    let layout = Scratch::new("layout");
    Index::busybox(Format::Oci).write_layout(layout.path(), "latest");
    let outcome = vm
        .tree(layout.path(), "layout")
        .memory(512)
        .timeout(Duration::from_secs(300))
        .run(SCRIPT);
    assert!(outcome.ok().contains("the whole loop works"));
}

#[test]
fn the_loop_works_for_everybody_on_x86_64() {
    whole_loop(Arch::X86_64);
}

#[test]
fn the_loop_works_for_everybody_on_aarch64() {
    whole_loop(Arch::Aarch64);
}
