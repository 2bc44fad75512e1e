//! Write order: every write and flush of a machine's disk is logged through a good update, a rollback and a prune; then prefixes of the
//! log are replayed, exact ones up to a flush, and ones in which writes after the last flush are missing at random, as a disk's cache
//! loses them. On each the device must come up with the old version or the new one, its journal read and its store sound.
//! `DUNLIN_PREFIXES` says how many (3), `DUNLIN_SEED` which.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::arch::Arch;
use crate::fixture::broker::Broker;
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::fixture::vm::{HOST, Vm, make_disk};
use crate::kills::{Chance, number};
use crate::pull::noise;
use crate::skip;

/// Bytes of a sector in the log.
const SECTOR: u64 = 512;

const MAGIC: u64 = 0x006a_7366_7773_6872;

/// Prefixes that one machine judges.
const AT_ONCE: usize = 1;

/// An entry of the log; format of `dm-log-writes` (Documentation/admin-guide/device-mapper/log-writes.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Where on the disk, bytes.
    to: u64,
    /// Bytes.
    length: u64,
    /// Where in the log its data is; none for a discard.
    data: Option<u64>,
    flush: bool,
}

/// Reads the log up to its end or to what a dying writer did not finish.
fn entries(log: &File) -> Vec<Entry> {
    let word = |at: u64| -> Option<u64> {
        let mut bytes = [0; 8];
        log.read_exact_at(&mut bytes, at).ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    assert_eq!((word(0), word(8)), (Some(MAGIC), Some(1)), "a log of version 1");
    let sector = u64::from(word(24).unwrap() as u32);
    assert_eq!(sector, SECTOR);
    let size = log.metadata().unwrap().len();
    let (mut at, mut found) = (sector, Vec::new());
    while let (Some(to), Some(sectors), Some(flags)) = (word(at), word(at + 8), word(at + 16)) {
        let length = sectors * sector;
        let discard = flags & 4 != 0;
        let data = at + sector;
        if flags > 15 || (flags == 0 && sectors == 0) || (!discard && data + length > size) {
            break;
        }
        found.push(Entry {
            to: to * sector,
            length,
            data: (!discard && length > 0).then_some(data),
            flush: flags & 3 != 0,
        });
        at = data + if discard { 0 } else { length };
    }
    found
}

/// The disk as it was at the beginning, with these entries written to it.
fn replayed(base: &Path, log: &File, entries: impl Iterator<Item = Entry>, image: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("--sparse=always")
        .args([base, image])
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "copy of the disk");
    let disk = File::options().write(true).open(image).unwrap();
    for entry in entries {
        let mut bytes = vec![0; entry.length as usize];
        if let Some(data) = entry.data {
            log.read_exact_at(&mut bytes, data).unwrap();
        }
        disk.write_all_at(&bytes, entry.to).unwrap();
    }
}

const AGENT: &str = r#"
    [ -d /disk/store ] || as dunlin mkdir -m 700 /disk/store
    as dunlin mkdir -m 700 /tmp/drun
    delegated dunlin keeper --root /disk/store --runroot /tmp/drun --unit &
    keeper=$!
    while ! [ -S /tmp/drun/keeper.sock ]; do usleep 50000; done
    d() { as dunlin dunlin --root /disk/store --runroot /tmp/drun --config /etc/agent.toml "$@"; }
    as dunlin dunlin --root /disk/store --runroot /tmp/drun --config /etc/agent.toml agent &
    agent=$!
"#;

/// In the guest, for each of its disks: a device without a network.
const JUDGE: &str = r#"
    judge() {
        echo "judge $1"
        mount -t ext4 /dev/$1 /disk || { echo "BROKEN $1: no file system"; return; }
        AGENT
        # Settled: one container is left, and it runs.
        for _ in $(seq 120); do
            found=$(d ps -a --noheading --format "app $1 {{.Names}} {{.State}} {{.Labels}}")
            case "$(echo "$found" | wc -l) $found" in "1 app $1 web running "*) break ;; esac
            usleep 500000
        done
        echo "$found"
        for _ in $(seq 10); do
            d system check >/tmp/faults 2>&1 && break
            grep -q 'is left over\|leads nowhere' /tmp/faults || break
            sleep 1
        done
        d system check >/tmp/faults 2>&1 && echo "sound $1" || { echo "BROKEN $1:"; cat /tmp/faults; }
        kill -TERM $agent; wait $agent
        d rm -a -f -t 0 >/dev/null
        kill -KILL $keeper; wait $keeper
        umount -l /disk
        rm -rf /tmp/drun
    }
    mkdir -p /disk
"#;

struct Bench {
    registry: Registry,
    broker: Broker,
    scratch: Scratch,
    disk: PathBuf,
    generation: u64,
}

impl Bench {
    fn settings(&self) -> String {
        format!(
            "[device]\nname='vm'\n[mqtt]\nurl='mqtt://{HOST}:{}'\ninsecure=true\n[store]\nreserve='1M'\n\
             [registry]\ninsecure=['{HOST}:{}']\n",
            self.broker.port(),
            self.registry.port()
        )
    }

    fn vm(&self) -> Result<Vm, String> {
        let vm = Vm::new(Arch::X86_64)?
            .dunlin()?
            .memory(384)
            .timeout(Duration::from_secs(600));
        Ok(vm.text("/etc/agent.toml", self.settings()))
    }

    fn image(&self, tag: &str) -> String {
        let tree = Tree::new()
            .dir("own")
            .file("own/big", 0o644, noise(200_000, tag.len() as u64));
        let layer = (0..20)
            .fold(tree, |tree, n| {
                tree.file(&format!("own/{tag}{n}"), 0o640, noise(3000, n))
            })
            .finish();
        let index = Index::each(Format::Oci, |recipe| recipe.layer(layer.clone(), Compression::Gzip));
        let pushed = self.registry.push("app", tag, &index);
        format!(
            "{HOST}:{}/app@{}",
            self.registry.port(),
            pushed.rsplit_once('@').unwrap().1
        )
    }

    /// Sends a version of the app and waits for the end of its deployment; its specification.
    fn deploy(&mut self, image: &str, health: &str, end: &str) -> String {
        self.generation += 1;
        let activity = format!("act-{}", self.generation);
        let app = json!({
            "name": "web", "image": image, "env": {"N": activity}, "limits": {"memory": "24M"},
            "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
            "health": {"exec": [health], "interval": "3s", "start_interval": "200ms", "timeout": "20s", "failures": 2},
            "update": {"soak": "1s"},
        });
        let document = json!({
            "audience": "d/vm", "generation": self.generation, "activity": activity,
            "issued_at": "2026-11-21T22:00:00Z", "apps": [app.clone()],
        });
        let mut watch = self.broker.watch("dunlin/v1/d/vm/deploy");
        self.broker
            .publish("dunlin/v1/d/vm/desired", document.to_string(), true);
        let wait = Duration::from_secs(240);
        watch.wait_for_json(&format!("{activity} to be {end}"), wait, |value: &Value| {
            value["activity"] == activity && value["state"] == end
        });
        let app: dunlin::types::app::App = serde_json::from_value(app).unwrap();
        app.spec_digest().to_string()
    }
}

#[test]
fn whatever_a_disk_loses_that_was_not_flushed_the_device_comes_up_old_or_new() {
    let scratch = Scratch::new("replay");
    let (disk, base, log) = (scratch.join("disk"), scratch.join("base"), scratch.join("log"));
    make_disk(&disk, 64);
    let mut bench = Bench {
        registry: Registry::plain(),
        broker: Broker::plain(),
        scratch,
        disk,
        generation: 1_795_302_000,
    };
    let vm = match bench.vm() {
        Ok(vm) => vm,
        Err(reason) => skip!("{reason}"),
    };
    let (first, second) = (bench.image("one"), bench.image("second"));
    let wait =
        "stty -echo </dev/console; while ! [ -e /tmp/over ]; do read -r line </dev/console && eval \"$line\"; done";
    let mut machine = vm.net().disk(&bench.disk).start(&format!("{AGENT}\n{wait}"));
    let old = bench.deploy(&first, "/bin/true", "COMMITTED");
    machine.say("sync; umount /disk; echo SYNCED");
    machine.wait_for("SYNCED");
    machine.power_cut();
    fs::copy(&bench.disk, &base).unwrap();

    let vm = bench.vm().unwrap().net().disk(&bench.disk).log_writes(&log);
    let mut machine = vm.start(&format!("{AGENT}\n{wait}"));
    let new = bench.deploy(&second, "/bin/true", "COMMITTED");
    // Until it is judged it runs, and is as good as any.
    let tried = bench.deploy(&first, "/bin/false", "ROLLED_BACK");
    machine.say("d system prune -a -f; echo PRUNED");
    machine.wait_for("PRUNED");
    machine.power_cut();

    let log = File::open(&log).unwrap();
    let entries = entries(&log);
    let flushes: Vec<usize> = (0..entries.len()).filter(|at| entries[*at].flush).collect();
    println!("{} entries, {} of them flushes", entries.len(), flushes.len());
    assert!(
        flushes.len() > 20,
        "{} flushes in {} entries",
        flushes.len(),
        entries.len()
    );
    let count = number("DUNLIN_PREFIXES", 3) as usize;
    let mut chance = Chance::of_environment();
    let mut cases = Vec::new();
    for case in 0..count {
        if case % 2 == 0 {
            // Spread over the whole log.
            let flush = flushes[(case * flushes.len() / count + chance.below(3) as usize).min(flushes.len() - 1)];
            cases.push((format!("up to flush {flush}"), entries[..=flush].to_vec()));
        } else {
            let end = chance.below(entries.len() as u64) as usize;
            let flushed = flushes
                .iter()
                .rev()
                .find(|flush| **flush < end)
                .map_or(0, |flush| flush + 1);
            let mut kept = entries[..flushed].to_vec();
            kept.extend(entries[flushed..end].iter().filter(|_| chance.below(2) == 0));
            let lost = end - kept.len();
            cases.push((format!("{end} entries but {lost} after flush {flushed}"), kept));
        }
    }
    for group in cases.chunks(AT_ONCE) {
        judge(&bench, &base, &log, group, &[old.clone(), new.clone(), tried.clone()]);
    }
}

/// Lets one machine look at several disks.
fn judge(bench: &Bench, base: &Path, log: &File, cases: &[(String, Vec<Entry>)], versions: &[String]) {
    let mut vm = bench.vm().unwrap();
    let mut script = JUDGE.replace("AGENT", AGENT);
    let disks: Vec<String> = ('a'..).take(cases.len()).map(|letter| format!("vd{letter}")).collect();
    for ((_, entries), disk) in cases.iter().zip(&disks) {
        let image = bench.scratch.join(disk);
        replayed(base, log, entries.iter().copied(), &image);
        vm = vm.more_disk(&image);
        script += &format!("judge {disk}\n");
    }
    let output = vm.run(&script).output;
    for ((what, _), disk) in cases.iter().zip(&disks) {
        let prefix = format!("app {disk} ");
        let apps: Vec<&str> = output.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        let right = |app: &&str| app.starts_with("web running") && versions.iter().any(|spec| app.contains(spec));
        let running = apps.iter().filter(|app| right(app)).count();
        println!("{what}: {running} running of {}", apps.len());
        assert_eq!(running, 1, "{what}: {disk}\n{output}");
        assert!(output.contains(&format!("sound {disk}")), "{what}: {disk}\n{output}");
    }
    for sign in ["BROKEN", "no slot could be read", "panicked"] {
        assert!(!output.contains(sign), "{output}");
    }
}

#[test]
fn entries_of_a_block_log_are_read_up_to_what_was_not_finished() {
    let scratch = Scratch::new("blocklog");
    let mut bytes = vec![0; 512];
    let put = |bytes: &mut Vec<u8>, at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    put(&mut bytes, 0, MAGIC);
    put(&mut bytes, 8, 1);
    put(&mut bytes, 24, 512);
    // A write of two sectors, a flush, a discard, a write that was cut off.
    for (sector, sectors, flags, data) in [(8, 2, 0, 2), (0, 0, 1, 0), (100, 4, 4, 0), (7, 2, 0, 1)] {
        let at = bytes.len();
        bytes.resize(at + 512 + data * 512, 0xab);
        bytes[at..at + 512].fill(0);
        put(&mut bytes, at, sector);
        put(&mut bytes, at + 8, sectors);
        put(&mut bytes, at + 16, flags);
    }
    let path = scratch.write("log", &bytes);
    let log = File::open(&path).unwrap();
    let found = entries(&log);
    let entry = |to, length, data, flush| Entry {
        to,
        length,
        data,
        flush,
    };
    let (write, flush) = (entry(8 * 512, 1024, Some(1024), false), entry(0, 0, None, true));
    assert_eq!(found, [write, flush, entry(100 * 512, 2048, None, false)]);

    let base = scratch.write("base", vec![1; 200 * 512]);
    let image = scratch.join("image");
    replayed(&base, &log, found.into_iter(), &image);
    let disk = fs::read(&image).unwrap();
    assert_eq!(
        (disk[8 * 512 - 1], disk[8 * 512], disk[10 * 512 - 1], disk[10 * 512]),
        (1, 0xab, 0xab, 1)
    );
    assert!(disk[100 * 512..104 * 512].iter().all(|byte| *byte == 0));
}
