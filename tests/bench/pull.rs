//! Rows N9 to N11 and N13: pulls from a registry on loopback against podman, containerd and skopeo, each into a store on a
//! new ext4 file system. Wall time is the whole command line and a syncfs after it; memory is the highest sum of PSS of all
//! processes that take part, looked at every few milliseconds; bytes written are the kernel's (`write_bytes`).

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::device;
use super::fixture::arch::Arch;
use super::fixture::child::{self, Running};
use super::fixture::cmd::{self, Cmd};
use super::fixture::images::{Compression, Format, Image, Recipe};
use super::fixture::registry::Registry;
use super::fixture::scratch::Scratch;
use super::fixture::tree::Tree;
use super::{Table, mb, median};

const LAYERS: usize = 4;
/// Bytes of the files of one layer.
const LAYER: usize = 72 << 20;
/// Layers of a gigabyte of the large image.
const LARGE: usize = 2;

/// Measures; `count` pulls each.
pub fn rows(table: &mut Table, count: usize, large: bool) {
    if !nix::unistd::geteuid().is_root() {
        table.row("N9", "pulls", "", "not measured: needs root".to_owned());
        return;
    }
    let scratch = Scratch::new("bench-pull");
    let registry = Registry::plain();
    let layers: Vec<Layer> = machine_layers();
    for (name, compression, budget) in [
        ("gzip", Compression::Gzip, "≤ 1.05"),
        ("zstd", Compression::Zstd, "≤ 1.05 and the compressed bytes once"),
    ] {
        let image = image_of(&layers, compression);
        registry.push_image(name, "1", &image);
        let sent: usize = image.layers.iter().map(|layer| layer.bytes.len()).sum();
        let reference = registry.reference(&format!("{name}:1"));
        let files: u64 = layers.iter().map(|layer| layer.rounded).sum();
        rows_of(table, &scratch, (name, &reference), count, (files, sent as u64), budget);
    }
    small_layer(table, &scratch, &registry, &layers);
    drop(layers);
    if large {
        let reference = push_large(&registry);
        let ours = Peer::dunlin(&scratch).pull(&reference, true);
        let measured = ours.map_or_else(|why| format!("not measured: {why}"), |ours| mb(ours.peak));
        table.row(
            "N10",
            "peak memory of the pull of a 2 GB image, gzip",
            "≤ 16 MB",
            measured,
        );
    }
}

/// A layer's archive, and the sizes of its files rounded up to blocks.
struct Layer {
    tar: Vec<u8>,
    rounded: u64,
}

/// Layers of this machine's programs and libraries, so that they compress as images do.
fn machine_layers() -> Vec<Layer> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut folders = vec![
        PathBuf::from("/usr/bin"),
        PathBuf::from("/usr/lib"),
        PathBuf::from("/usr/share"),
    ];
    while let Some(folder) = folders.pop() {
        let mut all: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
        all.sort_by_key(fs::DirEntry::file_name);
        for entry in all {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() && entry.metadata().is_ok_and(|m| m.len() < 8 << 20) => {
                    files.push(entry.path());
                }
                _ => {}
            }
        }
    }
    let mut files = files.into_iter();
    (0..LAYERS)
        .map(|number| {
            let (mut tree, mut size, mut rounded) = (Tree::new(), 0, 0);
            let mut folders = HashSet::new();
            while size < LAYER {
                let Some(path) = files.next() else { break };
                let Ok(content) = fs::read(&path) else { continue };
                let name = format!("layer{number}{}", path.display());
                let above: Vec<&Path> = Path::new(&name).ancestors().skip(1).collect();
                for folder in above.iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
                    if folders.insert(folder.to_path_buf()) {
                        tree = tree.dir(folder.to_str().unwrap());
                    }
                }
                tree = tree.file(&name, 0o644, &content);
                size += content.len();
                rounded += content.len().next_multiple_of(4096) as u64;
            }
            Layer {
                tar: tree.finish(),
                rounded,
            }
        })
        .collect()
}

fn image_of(layers: &[Layer], compression: Compression) -> Image {
    let recipe = Recipe::new(Arch::host()).format(Format::Oci);
    let recipe = layers
        .iter()
        .fold(recipe, |recipe, layer| recipe.layer(layer.tar.clone(), compression));
    recipe.build()
}

fn push_large(registry: &Registry) -> String {
    let seed = fs::read("/bin/busybox").unwrap_or_default();
    let recipe = (0..LARGE).fold(Recipe::new(Arch::host()), |recipe, number| {
        let mut tree = Tree::new();
        for index in 0..64 {
            let mut content = seed.repeat((16 << 20) / seed.len() + 1);
            content.truncate(16 << 20);
            content[index] ^= 1;
            tree = tree.file(&format!("large{number}/{index}"), 0o644, &content);
        }
        recipe.layer(tree.finish(), Compression::Gzip)
    });
    registry.push_image("large", "1", &recipe.build());
    registry.reference("large:1")
}

/// What one pull cost.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: Duration,
    /// Bytes.
    peak: u64,
    /// Bytes.
    written: u64,
}

fn rows_of(
    table: &mut Table,
    scratch: &Scratch,
    (name, reference): (&str, &str),
    count: usize,
    (files, sent): (u64, u64),
    budget: &str,
) {
    let peers = [
        Peer::dunlin(scratch),
        Peer::podman(scratch),
        Peer::containerd(scratch),
        Peer::skopeo(scratch),
    ];
    let mut costs: Vec<(String, Result<Vec<Cost>, String>)> = Vec::new();
    let mut peers: Vec<Peer> = peers.into_iter().collect();
    for peer in &peers {
        costs.push((peer.name.to_owned(), Ok(Vec::new())));
    }
    // In turns, so that what else the machine does meets all alike.
    for round in 0..=count {
        for (peer, (_, all)) in peers.iter_mut().zip(&mut costs) {
            if let Ok(so_far) = all {
                // Looking at memory takes time: that pull is one more, and does not count for the clock.
                match peer.pull(reference, round == count) {
                    Ok(cost) => so_far.push(cost),
                    Err(why) => *all = Err(why),
                }
            }
        }
    }
    let of = |peer: &str| {
        costs
            .iter()
            .find(|(name, _)| name == peer)
            .and_then(|(_, all)| all.as_ref().ok())
    };
    let wall = |peer: &str| {
        let mut all: Vec<Duration> = of(peer)?.iter().take(count).map(|cost| cost.wall).collect();
        median(&mut all)
    };
    let highest = |peer: &str, what: fn(&Cost) -> u64| of(peer)?.iter().map(what).max();
    let show = |what: &dyn Fn(&str) -> Option<String>| {
        let words = costs.iter().map(|(name, all)| match all {
            Ok(_) => format!("{name} {}", what(name).unwrap_or_default()),
            Err(why) => format!("{name}: not measured: {why}"),
        });
        words.collect::<Vec<_>>().join("; ")
    };
    let best = ["podman", "containerd"].into_iter().filter_map(wall).min();
    let ratio = wall("dunlin").zip(best).map_or(String::new(), |(ours, best)| {
        format!(
            "; ratio to the best that unpacks {:.2}",
            ours.as_secs_f64() / best.as_secs_f64()
        )
    });
    let what = format!(
        "pull of {} of files in {LAYERS} layers, {name} ({})",
        mb(files),
        mb(sent)
    );
    let seconds = |peer: &str| wall(peer).map(|wall| format!("{:.2} s", wall.as_secs_f64()));
    table.row("N9", &what, "≤ 0.25 × the best peer", show(&seconds) + &ratio);
    let what = format!("peak memory of that pull, all processes, {name}");
    table.row(
        "N10",
        &what,
        "≤ 16 MB",
        show(&|peer| highest(peer, |cost| cost.peak).map(mb)),
    );
    let per_file =
        |peer: &str| highest(peer, |cost| cost.written).map(|bytes| format!("{:.3}", bytes as f64 / files as f64));
    let spooled = match name {
        "zstd" => format!("; the compressed bytes are {:.3}", sent as f64 / files as f64),
        _ => String::new(),
    };
    let what = format!("bytes written per byte of files in blocks, {name}");
    table.row("N11", &what, budget, show(&per_file) + &spooled);
}

/// Requests of a pull of an unchanged tag, and of one with one new layer.
fn small_layer(table: &mut Table, scratch: &Scratch, registry: &Registry, layers: &[Layer]) {
    let small = Tree::new().file("new", 0o644, vec![b'n'; 100_000]).finish();
    let before = image_of(&layers[..1], Compression::Gzip);
    registry.push_image("moves", "1", &before);
    let reference = registry.reference("moves:1");
    let mut dunlin = Peer::dunlin(scratch);
    if let Err(why) = dunlin.pull(&reference, false) {
        table.row("N13", "pulls again", "", format!("not measured: {why}"));
        return;
    }
    let all = || {
        ["HEAD", "GET"]
            .map(|method| registry.requests(method, "/v2/"))
            .iter()
            .sum::<usize>()
    };
    let counted = |dunlin: &Peer| {
        let before = all();
        dunlin.command(&reference).ok();
        // The registry logs a request once it is over.
        thread::sleep(Duration::from_millis(300));
        all() - before
    };
    table.row(
        "N13",
        "requests of a pull of an unchanged tag",
        "1",
        counted(&dunlin).to_string(),
    );
    let recipe = Recipe::new(Arch::host()).layer(layers[0].tar.clone(), Compression::Gzip);
    registry.push_image("moves", "1", &recipe.layer(small, Compression::Gzip).build());
    let old_layer = || registry.requests("GET", &format!("/moves/blobs/{}", before.layers[0].digest()));
    let asked = old_layer();
    let requests = counted(&dunlin);
    let again = old_layer() - asked;
    table.row(
        "N13",
        "pull of an image with one small new layer",
        "only that layer",
        format!("{requests} requests; the old layer was asked for {again} times more"),
    );
}

/// One that pulls.
struct Peer {
    name: &'static str,
    store: PathBuf,
    daemon: Option<Running>,
}

impl Peer {
    fn new(scratch: &Scratch, name: &'static str) -> Peer {
        Peer {
            name,
            store: scratch.join(name),
            daemon: None,
        }
    }

    fn dunlin(scratch: &Scratch) -> Peer {
        Peer::new(scratch, "dunlin")
    }

    fn podman(scratch: &Scratch) -> Peer {
        Peer::new(scratch, "podman")
    }

    fn skopeo(scratch: &Scratch) -> Peer {
        Peer::new(scratch, "skopeo")
    }

    fn containerd(scratch: &Scratch) -> Peer {
        Peer::new(scratch, "containerd")
    }

    fn command(&self, reference: &str) -> Cmd {
        let (data, run) = (self.store.join("data"), self.store.with_extension("run"));
        let words = |cmd: Cmd, words: &[&str]| cmd.args(words).timeout(Duration::from_secs(300));
        match self.name {
            "dunlin" => {
                let cmd = Cmd::new(cmd::dunlin())
                    .arg("--root")
                    .arg(data)
                    .arg("--runroot")
                    .arg(run);
                words(cmd, &["pull", "-q", "--tls-verify=false", reference])
            }
            "podman" => {
                let cmd = Cmd::new("podman").arg("--root").arg(data).arg("--runroot").arg(run);
                words(
                    cmd,
                    &[
                        "--storage-driver",
                        "overlay",
                        "pull",
                        "-q",
                        "--tls-verify=false",
                        reference,
                    ],
                )
            }
            "skopeo" => {
                let from = format!("docker://{reference}");
                let cmd = words(Cmd::new("skopeo"), &["copy", "-q", "--src-tls-verify=false", &from]);
                cmd.arg(format!("dir:{}", data.display()))
            }
            _ => {
                let cmd = Cmd::new("ctr").arg("-a").arg(self.store.join("sock"));
                words(cmd, &["images", "pull", "--plain-http", reference])
            }
        }
    }

    /// Into an empty store.
    fn pull(&mut self, reference: &str, watched: bool) -> Result<Cost, String> {
        self.empty();
        self.make()?;
        if self.name == "containerd" {
            self.start_containerd()?;
        }
        let _ = Cmd::new("sync").arg("-f").arg(&self.store).run();
        let daemon = self.daemon.as_ref().map(Running::pid);
        let written = |daemon: Option<u32>| {
            let daemon = daemon.map_or(0, |pid| write_bytes(&pid.to_string()));
            write_bytes("self") + daemon
        };
        let before = written(daemon);
        let watch = watched.then(|| Watch::start(daemon));
        let began = Instant::now();
        let mut command = self.command(reference).into_command();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let out = command.output().map_err(|e| e.to_string())?;
        let sync = Cmd::new("sync").arg("-f").arg(&self.store).run();
        let wall = began.elapsed();
        let peak = watch.map_or(0, Watch::end);
        if !out.status.success() || sync.code != 0 {
            return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned());
        }
        // The keeper has the workers' counts, and is new.
        let keeper = match self.name {
            "dunlin" => ours().into_iter().map(|pid| write_bytes(&pid.to_string())).sum(),
            _ => 0,
        };
        Ok(Cost {
            wall,
            peak,
            written: written(daemon) - before + keeper,
        })
    }

    fn start_containerd(&mut self) -> Result<(), String> {
        let config = self.store.join("config.toml");
        let text = format!(
            "version = 2\nroot = '{0}/data'\nstate = '{0}/state'\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n[grpc]\naddress = '{0}/sock'\n",
            self.store.display()
        );
        fs::write(&config, text).map_err(|e| e.to_string())?;
        let mut command = std::process::Command::new("containerd");
        command.arg("-c").arg(&config);
        if !Path::new("/usr/bin/containerd").exists() {
            return Err("containerd is not installed".to_owned());
        }
        let mut daemon = Running::start("containerd", command);
        daemon.wait_for("containerd successfully booted", Duration::from_secs(20));
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Takes the store away.
    fn empty(&mut self) {
        self.daemon = None;
        if self.name == "dunlin" {
            // The keeper stays for a while; the next pull's is a new one, which counts from nothing.
            let store = self.store.to_string_lossy().into_owned();
            let of_it = |pid: &u32| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&store))
            };
            ours().into_iter().filter(of_it).for_each(child::end);
        }
        if self.name == "podman" {
            // Its overlay keeps a mount of its own.
            let _ = Cmd::new("umount").arg(self.store.join("data/overlay")).run();
        }
        if self.store.exists() {
            let _ = Cmd::new("umount").arg(&self.store).run();
            let _ = fs::remove_dir(&self.store);
        }
        let _ = fs::remove_file(self.store.with_extension("img"));
    }

    /// A new file system for the store: on one that lost many files a short time ago ext4 looks for free inodes much longer,
    /// whoever asks.
    fn make(&self) -> Result<(), String> {
        let image = self.store.with_extension("img");
        fs::create_dir_all(&self.store).map_err(|e| e.to_string())?;
        let file = fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(6 << 30).map_err(|e| e.to_string())?;
        let made = Cmd::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).run();
        let mounted = Cmd::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(&self.store)
            .run();
        if made.code != 0 || mounted.code != 0 {
            return Err(format!("{}{}", made.stderr, mounted.stderr));
        }
        fs::create_dir_all(self.store.join("data")).map_err(|e| e.to_string())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.empty();
    }
}

/// The processes that run the binary that is measured.
fn ours() -> Vec<u32> {
    let id = |path: &Path| fs::metadata(path).ok().map(|meta| file_id(&meta));
    let binary = id(&cmd::dunlin());
    processes()
        .into_iter()
        .filter(|pid| id(Path::new(&format!("/proc/{pid}/exe"))) == binary)
        .collect()
}

fn file_id(meta: &fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

fn processes() -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Bytes that a process and those that it has waited for have had written to disk.
fn write_bytes(process: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// Looks at the memory of a pull until told to end.
struct Watch {
    over: Arc<AtomicBool>,
    peak: Arc<Mutex<u64>>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    /// Watches every new child of this process with all below it, a daemon, and dunlin's.
    fn start(daemon: Option<u32>) -> Watch {
        let (over, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        let (ends, highest) = (Arc::clone(&over), Arc::clone(&peak));
        let own = std::process::id();
        let bench = fs::metadata("/proc/self/exe")
            .map(|exe| file_id(&exe))
            .unwrap_or_default();
        let others: HashSet<u32> = below(own).into_iter().filter(|pid| Some(*pid) != daemon).collect();
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let mut all: HashSet<u32> = below(own).into_iter().filter(|pid| !others.contains(pid)).collect();
                all.extend(daemon);
                all.extend(ours());
                // A child that has not yet become its program shares all memory with this process.
                all.retain(|pid| fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|exe| file_id(&exe) != bench));
                let now = all.into_iter().map(|pid| device::pss(pid).0).sum::<u64>();
                let mut highest = highest.lock().unwrap();
                *highest = now.max(*highest);
                drop(highest);
                thread::sleep(Duration::from_millis(5));
            }
        });
        Watch { over, peak, thread }
    }

    fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        *self.peak.lock().unwrap()
    }
}

/// All processes below one.
fn below(root: u32) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let all: Vec<(u32, u32)> = processes()
        .into_iter()
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let above = found[at];
        found.extend(all.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| pid));
        at += 1;
    }
    found.split_off(1)
}
