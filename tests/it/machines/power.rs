//! Power cuts while images are pulled, removed and pruned: what the device has is sound every time, what was lost costs little,
//! and nothing takes room for ever. `DUNLIN_CUTS` says how many, `DUNLIN_SEED` with which moments.

use std::path::Path;
use std::time::Duration;

use crate::fixture::arch::Arch;
use crate::fixture::images::{Compression, Recipe};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::fixture::vm::{HOST, Running, Vm, make_disk};
use crate::kills::{Chance, number};
use crate::pull::noise;
use crate::registry::faulty::Faulty;
use crate::registry::proxy::slow;
use crate::resume::mixed;
use crate::skip;

/// What one power cut may cost of one layer.
const CUT_BYTES: usize = 8 << 20;

/// Every boot begins with this: faults that are no leftovers are told, then everything must be right.
const BEGIN: &str = r#"
    set -e
    as dunlin mkdir -p -m 700 /disk/store /tmp/drun
    delegated dunlin keeper --root /disk/store --runroot /tmp/drun --unit &
    for _ in $(seq 100); do [ -S /tmp/drun/keeper.sock ] && break; usleep 100000; done
    d() { as dunlin dunlin --root /disk/store --runroot /tmp/drun --config /etc/agent.toml "$@"; }
    d system check --repair >/tmp/faults 2>/tmp/words || { echo "NOT MENDED"; cat /tmp/faults /tmp/words; exit 1; }
    grep -v -e 'is left over' -e 'no image has it' -e 'leads nowhere' -e 'cut off' /tmp/faults && { echo "NOT SOUND"; exit 1; }
    d system check >/tmp/faults 2>/tmp/words || { echo "NOT CLEAN"; cat /tmp/faults /tmp/words; exit 1; }
    for image in $(d images -q | sort -u); do d image tree $image >/dev/null || { echo "NOT WHOLE"; exit 1; }; done
    echo SOUND
"#;

/// Pulls, and says when more of it is on the device than when it began.
const UNTIL_SYNCED: &str = r#"
    state() { stat -c %i-%Y /disk/store/tmp/part-*/synced 2>/dev/null || true; }
    before=$(state)
    d pull -q HOST/big:1 &
    while [ "$(state)" = "$before" ]; do usleep 50000; done
    echo SYNCED
    sleep 1000
"#;

struct Bench {
    _registry: Registry,
    server: Faulty,
    scratch: Scratch,
    disk: std::path::PathBuf,
}

impl Bench {
    fn new(images: &[(&str, Recipe)], rate: u64) -> Bench {
        let registry = Registry::plain();
        for (name, recipe) in images {
            registry.push_image(name, "1", &recipe.clone().build());
        }
        let scratch = Scratch::new("power");
        let disk = scratch.join("disk");
        make_disk(&disk, 256);
        Bench {
            server: slow(&registry, rate),
            _registry: registry,
            scratch,
            disk,
        }
    }

    fn boot(&self, script: &str) -> Result<Running, String> {
        let host = format!("{HOST}:{}", self.server.host().rsplit_once(':').unwrap().1);
        let settings = format!("[registry]\ninsecure = ['{host}']\n[store]\nreserve = '1M'\n");
        assert!(Path::new(&self.scratch.path()).exists());
        let vm = Vm::new(Arch::X86_64)?
            .dunlin()?
            .net()
            .memory(512)
            .timeout(Duration::from_secs(300));
        let script = format!("{BEGIN}\n{}", script.replace("HOST", &host));
        Ok(vm.disk(&self.disk).text("/etc/agent.toml", settings).start(&script))
    }
}

fn layer(seed: u64, bytes: usize) -> Vec<u8> {
    let tree = Tree::new()
        .dir("d")
        .file(&format!("d/big{seed}"), 0o644, mixed(bytes, seed));
    let many = (0..60).fold(tree, |tree, n| {
        tree.file(&format!("d/{seed}-{n}"), 0o640, noise(4000, seed + n))
    });
    many.hardlink(&format!("d/link{seed}"), &format!("d/big{seed}"))
        .finish()
}

#[test]
fn the_store_is_sound_after_every_power_cut() {
    let recipe = |own| {
        Recipe::new(Arch::X86_64)
            .layer(layer(1, 500_000), Compression::Gzip)
            .layer(layer(2, 500_000), Compression::Zstd)
            .layer(layer(own, 500_000), Compression::Gzip)
    };
    let bench = Bench::new(&[("one", recipe(11)), ("two", recipe(12))], 3 << 20);
    let work = r#"
        while :; do
            d pull -q HOST/one:1 >/dev/null; echo PULLED
            d pull -q HOST/two:1 >/dev/null; echo PULLED
            d rmi -f HOST/one:1 >/dev/null; echo REMOVED
            d system prune -a -f >/dev/null; echo PRUNED
        done
    "#;
    let cuts = number("DUNLIN_CUTS", 3);
    let mut chance = Chance::of_environment();
    for cut in 1..=cuts {
        let machine = match bench.boot(work) {
            Ok(machine) => machine,
            Err(reason) => skip!("{reason}"),
        };
        machine.wait_for("SOUND");
        std::thread::sleep(Duration::from_millis(chance.below(12_000)));
        let output = machine.power_cut().output;
        let after = output.rsplit("SOUND").next().unwrap_or("").trim().replace('\n', " ");
        println!("cut {cut} of {cuts} after: {after}");
        assert!(!output.contains("NOT "), "cut {cut}: {output}");
    }
    let end = r#"
        d pull -q HOST/one:1 >/dev/null
        d pull -q HOST/two:1 >/dev/null
        d system check || exit 1
        d rmi -f HOST/one:1 HOST/two:1 >/dev/null
        d system prune -a -f
        d system check || exit 1
        rest=$(find /disk/store/tmp /disk/store/layers /disk/store/blobs /disk/store/quarantine -type f ! -name 'lock*' 2>/dev/null | wc -l)
        [ "$rest" = 0 ] || { find /disk/store; exit 1; }
        [ "$(du -sk /disk/store | cut -f1)" -lt 300 ] || { du -ak /disk/store; exit 1; }
        echo nothing is left
    "#;
    let outcome = bench.boot(end).unwrap().wait();
    assert!(outcome.ok().contains("nothing is left"));
}

#[test]
fn a_pull_goes_on_after_power_cuts() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let recipe = Recipe::new(Arch::X86_64).layer(layer(1, 24_000_000), compression);
        let size: usize = recipe
            .clone()
            .build()
            .layers
            .iter()
            .map(|layer| layer.bytes.len())
            .sum();
        // Slowly: what waits in buffers of the emulator counts as served.
        let bench = Bench::new(&[("big", recipe)], 700 << 10);
        let mut chance = Chance::of_environment();
        let cuts = 1;
        for _ in 0..cuts {
            let machine = match bench.boot(UNTIL_SYNCED) {
                Ok(machine) => machine,
                Err(reason) => skip!("{reason}"),
            };
            machine.wait_for("SYNCED");
            std::thread::sleep(Duration::from_millis(chance.below(3000)));
            let output = machine.power_cut().output;
            assert!(!output.contains("NOT "), "{output}");
        }
        let before = bench.server.served("/blobs/");
        bench.boot("d pull -q HOST/big:1; d system check").unwrap().wait().ok();
        let served = bench.server.served("/blobs/");
        println!("{compression:?}: {size} bytes, {before} before the last boot, {served} in all");
        assert!(served <= size + cuts * CUT_BYTES, "{served} bytes for {size}");
        // Something was gone on with.
        assert!(
            served < size + before,
            "{served} bytes for {size}, {before} before the last boot"
        );
    }
}
