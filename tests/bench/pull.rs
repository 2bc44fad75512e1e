//! Rows N9 to N11 and N13: pulls from a registry on loopback against podman, containerd and skopeo, each into a store on a
//! new ext4 file system. Wall time is the whole command line and a syncfs after it; memory is the highest sum of PSS of all
//! processes that take part, looked at every few milliseconds; bytes written are the kernel's (`write_bytes`).

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::fixture::arch::Arch;
use super::fixture::images::{Compression, Format, Image, Recipe};
use super::fixture::registry::Registry;
use super::fixture::scratch::Scratch;
use super::fixture::tree::Tree;
use super::puller::{Cost, Peer};
use super::table::{Figure, Table, number};
use super::{Scale, median};

const LAYERS: usize = 4;
/// Bytes of the files of one layer.
const LAYER: usize = 72 << 20;
/// Layers of an image of a wanted size.
const LARGE: usize = 2;

/// Measures.
pub fn rows(table: &mut Table, scale: &Scale) {
    if !nix::unistd::geteuid().is_root() {
        return table.missing("N9", "pulls", "needs root");
    }
    let count = scale.of(5, 1);
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
    if !scale.smoke {
        let reference = push_sized(&registry, 2048);
        let ours = Peer::dunlin(&scratch).pull(&reference, true);
        let what = "peak memory of the pull of a 2 GB image, gzip";
        table.one("N10", what, "≤ 16 MB", ours.map(|ours| Figure::mb("", ours.peak)));
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

/// An image of so many MiB of files of at least one, gzip; its name.
pub fn push_sized(registry: &Registry, mib: usize) -> String {
    let seed = fs::read("/bin/busybox").unwrap_or_default();
    let each = (mib / (64 * LARGE)).max(1);
    let count = (mib / each / LARGE).max(1);
    let recipe = (0..LARGE).fold(Recipe::new(Arch::host()), |recipe, number| {
        let mut tree = Tree::new();
        for index in 0..count {
            let mut content = seed.repeat((each << 20) / seed.len() + 1);
            content.truncate(each << 20);
            content[index] ^= 1;
            tree = tree.file(&format!("large{number}/{index}"), 0o644, &content);
        }
        recipe.layer(tree.finish(), Compression::Gzip)
    });
    let name = format!("large{mib}");
    registry.push_image(&name, "1", &recipe.build());
    registry.reference(&format!("{name}:1"))
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
    let each = |what: &dyn Fn(&str) -> Option<Figure>| -> Vec<Figure> {
        let figure = |(name, all): &(String, Result<Vec<Cost>, String>)| match all {
            Ok(_) => what(name).unwrap_or_else(|| Figure::missing(name, "no figure")),
            Err(why) => Figure::missing(name, why),
        };
        costs.iter().map(figure).collect()
    };
    let mb = |bytes: u64| number(bytes as f64 / 1e6);
    let what = format!(
        "pull of {} MB of files in {LAYERS} layers, {name} ({} MB)",
        mb(files),
        mb(sent)
    );
    let mut walls = each(&|peer| Some(Figure::new(peer, wall(peer)?.as_secs_f64(), "s")));
    let best = ["podman", "containerd"].into_iter().filter_map(wall).min();
    if let Some((ours, best)) = wall("dunlin").zip(best) {
        walls.push(Figure::ratio("ratio to the best that unpacks", ours, best));
    }
    table.row("N9", &what, "≤ 0.25 × the best peer", walls);
    let what = format!("peak memory of that pull, all processes, {name}");
    let peaks = each(&|peer| Some(Figure::mb(peer, highest(peer, |cost| cost.peak)?)));
    table.row("N10", &what, "≤ 16 MB", peaks);
    let per_file = |bytes: u64| bytes as f64 / files as f64;
    let mut written = each(&|peer| Some(Figure::new(peer, per_file(highest(peer, |cost| cost.written)?), "")));
    if name == "zstd" {
        written.push(Figure::new("the compressed bytes are", per_file(sent), ""));
    }
    let what = format!("bytes written per byte of files in blocks, {name}");
    table.row("N11", &what, budget, written);
}

/// Requests of a pull of an unchanged tag, and of one with one new layer.
fn small_layer(table: &mut Table, scratch: &Scratch, registry: &Registry, layers: &[Layer]) {
    let small = Tree::new().file("new", 0o644, vec![b'n'; 100_000]).finish();
    let before = image_of(&layers[..1], Compression::Gzip);
    registry.push_image("moves", "1", &before);
    let reference = registry.reference("moves:1");
    let mut dunlin = Peer::dunlin(scratch);
    if let Err(why) = dunlin.pull(&reference, false) {
        return table.missing("N13", "pulls again", &why);
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
    let requests = vec![Figure::new("", counted(&dunlin) as f64, "")];
    table.row("N13", "requests of a pull of an unchanged tag", "1", requests);
    let recipe = Recipe::new(Arch::host()).layer(layers[0].tar.clone(), Compression::Gzip);
    registry.push_image("moves", "1", &recipe.layer(small, Compression::Gzip).build());
    let old_layer = || registry.requests("GET", &format!("/moves/blobs/{}", before.layers[0].digest()));
    let asked = old_layer();
    let requests = counted(&dunlin);
    let again = old_layer() - asked;
    let measured = vec![
        Figure::new("requests", requests as f64, ""),
        Figure::new("requests for the old layer", again as f64, ""),
    ];
    let what = "pull of an image with one small new layer";
    table.row("N13", what, "only that layer", measured);
}
