//! Pulls that are interrupted: what was fetched is not fetched again, what was kept is never trusted, and what comes out is the same.

use crate::fixture::images::{Compression, Image, Recipe};
use crate::fixture::registry::Registry;
use crate::fixture::tree::Tree;
use crate::pull::{Place, host, layer_error, noise, options};
use crate::registry::faulty::{Faulty, Told};
use crate::registry::proxy::{proxy, slow};
use dunlin::image::check;
use dunlin::image::pull::{LayerError, pull};
use dunlin::image::sweep::{discard, sweep};
use dunlin::store::ImageRecord;
use dunlin::types::reference::Reference;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What an interruption may cost of one layer, and of the layers that are fetched at once.
const KILL_BYTES: usize = 1 << 20;

/// Half noise, half text: it compresses to a bit more than half.
pub fn mixed(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = noise(length, seed);
    for (number, chunk) in bytes.chunks_mut(64).enumerate() {
        if number % 2 == 0 {
            let text = format!("line {number} of a text that compresses well, as most of a program does ");
            chunk.copy_from_slice(&text.as_bytes()[..chunk.len()]);
        }
    }
    bytes
}

/// Big files, small files, links, directories that come back, whiteouts, empty and sparse things.
fn tree(seed: u64) -> Vec<u8> {
    let mut tree = Tree::new().dir("big").file("big/one", 0o644, mixed(3_000_000, seed));
    tree = tree.dir_mode("many", 0o750);
    for number in 0..400u64 {
        let name = format!("many/{}/file{number}", number % 7);
        if number < 7 {
            tree = tree.dir(&format!("many/{number}"));
        }
        tree = tree.owned_file(
            &name,
            0o640,
            1000 + number,
            mixed(2000 + number as usize * 17, seed + number),
        );
        if number % 9 == 0 {
            tree = tree
                .hardlink(&format!("many/link{number}"), &name)
                .symlink(&format!("many/soft{number}"), &name);
        }
    }
    tree = tree
        .whiteout("many", "gone")
        .dir("opaque")
        .opaque("opaque")
        .fifo("many/fifo");
    tree.file("big/two", 0o4755, mixed(3_000_000, seed + 7))
        .file("big/empty", 0o600, "")
        .finish()
}

fn image() -> Image {
    Recipe::new(host())
        .layer(tree(1), Compression::Gzip)
        .layer(tree(1000), Compression::Zstd)
        .layer(tree(2000), Compression::Gzip)
        .layer(tree(3000), Compression::Plain)
        .layer(tree(4000), Compression::OneBlock)
        .build()
}

pub fn bytes(image: &Image) -> usize {
    image.layers.iter().map(|layer| layer.bytes.len()).sum()
}

/// Starts a process that pulls into the place, leader of a group of its own.
pub fn start(place: &Place, name: &str) -> Child {
    start_with(place, name, None)
}

/// The same for one that removes something, where that is said.
pub fn start_with(place: &Place, name: &str, remove: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "pull::pulls_where_it_is_told_to", "--nocapture"]);
    command
        .env("DUNLIN_TEST_PULL", format!("{}|{name}", place.scratch.path().display()))
        .env("DUNLIN_BIN", crate::fixture::cmd::dunlin())
        .process_group(0);
    if let Some(remove) = remove {
        command.env("DUNLIN_TEST_REMOVE", remove);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills the process and its helpers.
pub fn kill(child: &mut Child) {
    if child.try_wait().unwrap().is_none() {
        let group = format!("-{}", child.id());
        let kill = Command::new("kill")
            .args(["-KILL", "--", &group])
            .stderr(Stdio::null())
            .status();
        kill.unwrap();
        child.wait().unwrap();
    }
}

/// Every path with everything that stat and its content say.
fn listing(root: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, all: &mut Vec<String>) {
        let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let meta = path.symlink_metadata().unwrap();
            let content = match meta.file_type() {
                kind if kind.is_file() => crate::fixture::images::digest(&fs::read(&path).unwrap()),
                kind if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                _ => String::new(),
            };
            let opaque = meta.is_dir().then(|| {
                let dir = fs::File::open(&path).unwrap();
                dunlin::sys::fs::get_xattr(&dir, b"user.overlay.opaque").unwrap()
            });
            let (mode, owner) = (meta.mode(), (meta.uid(), meta.gid()));
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            // Whiteouts have no time of their own.
            let time = (!meta.file_type().is_char_device()).then(|| (meta.mtime(), meta.mtime_nsec()));
            let shown = path.strip_prefix(root).unwrap().display();
            all.push(format!(
                "{shown} {mode:o} {owner:?} {links} {time:?} {} {opaque:?} {content}",
                meta.rdev()
            ));
            if meta.is_dir() {
                walk(root, &path, all);
            }
        }
    }
    let mut all = Vec::new();
    walk(root, root, &mut all);
    all
}

/// The trees of an image's layers as they lie in the store.
pub fn layers(place: &Place, image: &ImageRecord) -> Vec<Vec<String>> {
    let all = place.store.layout().layers();
    let trees = place.store.trees(image).unwrap();
    trees.iter().map(|tree| listing(&all.join(tree))).collect()
}

/// The image as an undisturbed pull leaves it.
pub fn calm(name: &str) -> (ImageRecord, Vec<Vec<String>>) {
    let place = Place::new();
    let image = place.pull(name).unwrap();
    let layers = layers(&place, &image);
    (image, layers)
}

pub fn assert_same(place: &Place, image: &ImageRecord, want: &[Vec<String>], label: &str) {
    for (have, want) in layers(place, image).iter().zip(want) {
        let odd: Vec<_> = have
            .iter()
            .zip(want)
            .filter(|(have, want)| have != want)
            .take(3)
            .collect();
        assert!(
            odd.is_empty() && have.len() == want.len(),
            "{label}: {} of {} entries: {odd:#?}",
            have.len(),
            want.len()
        );
    }
    for layer in &image.layers {
        let found = check::layer(&place.store, &*place.workers, &layer.key, false, &mut |_| ()).unwrap();
        assert!(found.is_good() && !found.not_checkable, "{label}: {found:?}");
        // The archive can be made again, byte for byte.
        let folder = place.store.layout().layers().join(layer.key.hex());
        let tree = dunlin::sys::fs::open_dir(&folder.join("diff")).unwrap();
        let mut archive = Vec::new();
        dunlin::image::recipe::make(&tree, fs::File::open(folder.join("recipe")).unwrap(), &mut archive).unwrap();
        assert_eq!(
            crate::fixture::images::digest(&archive),
            layer.diff.to_string(),
            "{label}: its archive"
        );
    }
    let faults = place.store.survey().unwrap().faults;
    assert!(faults.is_empty(), "{label}: {faults:?}");
    let tmp: Vec<_> = fs::read_dir(place.store.layout().tmp())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        tmp.iter().all(|name| name.to_str().unwrap().starts_with("lock-")),
        "{label}: {tmp:?}"
    );
}

fn registry_with(image: &Image) -> (Registry, String) {
    let registry = Registry::plain();
    registry.push_image("app", "1", image);
    let name = format!("{}:1", registry.reference("app"));
    (registry, name)
}

/// Pulls in a process that is killed after each of these times, and then to the end. Returns how many were killed.
fn pull_with_kills(place: &Place, server: &Faulty, waits: impl Iterator<Item = Duration>) -> (ImageRecord, usize) {
    let name = format!("{}/app:1", server.host());
    let mut killed = 0;
    for wait in waits {
        let mut child = start(place, &name);
        let since = Instant::now();
        while since.elapsed() < wait && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            break;
        }
        kill(&mut child);
        killed += 1;
        let faults = place.store.survey().unwrap().faults;
        let broken = faults.iter().find(|fault| {
            !matches!(
                fault.remedy,
                dunlin::store::Remedy::Collect | dunlin::store::Remedy::Sweep | dunlin::store::Remedy::Remove(_)
            )
        });
        assert!(broken.is_none(), "after kill {killed}: {broken:?}");
    }
    sweep(&place.store, &*place.workers, false).unwrap();
    (place.pull(&name).unwrap(), killed)
}

#[test]
fn a_killed_pull_goes_on_where_it_was_and_comes_out_the_same() {
    let image = image();
    let (registry, name) = registry_with(&image);
    let (_, want) = calm(&name);
    // Slowly: what waits in sockets because this machine is busy is not what is measured here.
    let server = slow(&registry, 2 << 20);
    let place = Place::new();
    let seed = std::process::id();
    println!("seed {seed}");
    let waits = (0..12u32)
        .map(|n| Duration::from_millis(700 + u64::from((seed.wrapping_mul(n + 1).wrapping_mul(2_654_435_761)) >> 23)));
    let (record, killed) = pull_with_kills(&place, &server, waits);
    assert!(killed > 3, "only {killed} were killed");
    assert_same(&place, &record, &want, "killed");
    let config = image.config.bytes.len() * (killed + 1);
    let repeated = server.served("/blobs/").saturating_sub(bytes(&image));
    println!("{killed} kills, {repeated} bytes fetched twice");
    assert!(
        repeated <= killed * KILL_BYTES + config,
        "{repeated} bytes twice after {killed} kills"
    );
}

#[test]
fn links_that_break_cost_no_byte_twice_even_through_a_registry() {
    let image = image();
    let (registry, name) = registry_with(&image);
    let (_, want) = calm(&name);
    for every in [100_000, 1_000_000] {
        let server = proxy(&registry, move |_, _, told| told.cut(every));
        let place = Place::new();
        let record = place.pull(&format!("{}/app:1", server.host())).unwrap();
        assert_same(&place, &record, &want, "cut");
        assert_eq!(
            server.served("/blobs/"),
            bytes(&image) + image.config.bytes.len(),
            "cut every {every}"
        );
    }
}

#[test]
fn a_pull_whose_link_stays_away_is_gone_on_with_by_the_next_one() {
    let image = image();
    let (registry, name) = registry_with(&image);
    let (_, want) = calm(&name);
    let place = Place::new();
    // A server that goes away for good after so many bytes of each blob.
    let server = proxy(&registry, move |asked, _, told| match asked.range() {
        None => told.cut(1_500_000),
        Some(_) => Told::new(503, ""),
    });
    let mut settings = dunlin::registry::Settings::new(Default::default(), Default::default(), Default::default());
    settings.limits.attempts = 2;
    settings.limits.pause = Duration::from_millis(10);
    let reference: Reference = format!("{}/app:1", server.host()).parse().unwrap();
    let client = dunlin::registry::Client::new(settings);
    let failed = crate::pull::block(pull(
        &place.store,
        &client,
        &place.workers,
        &reference,
        &options(),
        &mut |_| (),
    ));
    assert!(matches!(layer_error(failed.unwrap_err()), LayerError::Registry(_)));
    let kept = place.store.parts().unwrap();
    assert!(!kept.is_empty(), "something is kept");
    let fetched: u64 = kept.iter().map(|part| part.mark.fetched).sum();
    let faults = place.store.survey().unwrap().faults;
    assert!(faults.is_empty(), "what is kept is no fault: {faults:?}");
    sweep(&place.store, &*place.workers, false).unwrap();
    let server = proxy(&registry, |_, _, told| told);
    let record = place.pull(&format!("{}/app:1", server.host())).unwrap();
    assert_same(&place, &record, &want, "link gone");
    let second = server.served("/blobs/") - image.config.bytes.len();
    assert!(
        second as u64 <= bytes(&image) as u64 - fetched,
        "{second} after {fetched} of {}",
        bytes(&image)
    );
}

#[test]
fn what_was_kept_is_never_trusted() {
    let image = image();
    let (registry, name) = registry_with(&image);
    let (_, want) = calm(&name);
    let spoil = |label: &str, change: &dyn Fn(&Path)| {
        // No layer comes to its end: the two that are fetched at the same time (one of gzip, one of zstd) are there and marked.
        let server = proxy(&registry, |_, _, told| match told.body.len() {
            0..1_500_000 => told,
            _ => told.stall(1_500_000),
        });
        let place = Place::new();
        let mut child = start(&place, &format!("{}/app:1", server.host()));
        let marked = || {
            let parts = fs::read_dir(place.store.layout().tmp()).unwrap();
            parts
                .filter(|part| part.as_ref().unwrap().path().join("mark").exists())
                .count()
        };
        let since = Instant::now();
        while marked() < 2 && since.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(150));
        kill(&mut child);
        let mut parts = 0;
        for entry in fs::read_dir(place.store.layout().tmp()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("part-") {
                change(&path);
                parts += 1;
            }
        }
        assert!(parts >= 2, "{label}: {parts} parts");
        sweep(&place.store, &*place.workers, false).unwrap();
        let record = place.pull(&name).unwrap();
        assert_same(&place, &record, &want, label);
    };
    let flip = |path: &Path, at: usize| {
        if let Ok(mut bytes) = fs::read(path)
            && !bytes.is_empty()
        {
            let at = at % bytes.len();
            bytes[at] ^= 0x55;
            fs::write(path, bytes).unwrap();
        }
    };
    spoil("nothing", &|_| ());
    spoil("marks flipped", &|part| flip(&part.join("mark"), 5000));
    spoil("marks cut", &|part| drop(fs::write(part.join("mark"), b"DUN1")));
    spoil("marks gone", &|part| drop(fs::remove_file(part.join("mark"))));
    spoil("journal flipped", &|part| flip(&part.join("journal"), 9));
    spoil("journal cut", &|part| drop(fs::write(part.join("journal"), b"")));
    spoil("spool flipped", &|part| flip(&part.join("spool"), 100_000));
    spoil("spool cut", &|part| {
        if part.join("spool").exists() {
            fs::write(part.join("spool"), b"(").unwrap();
        }
    });
    spoil("tree gone", &|part| {
        fs::remove_dir_all(part.join("layer/diff/big")).unwrap_or(())
    });
    spoil("leftovers", &|part| {
        let tree = part.join("layer/diff");
        let _ = fs::create_dir_all(tree.join("later/deep"));
        let _ = fs::write(tree.join("later/deep/file"), "x");
        let _ = fs::write(tree.join("big/later"), "x");
    });
}

#[test]
fn a_registry_that_changes_or_ignores_ranges_is_seen_through() {
    let image = image();
    let (registry, name) = registry_with(&image);
    let (_, want) = calm(&name);
    let begin = |place: &Place| {
        let server = slow(&registry, 4 << 20);
        let name = format!("{}/app:1", server.host());
        let mut child = start(place, &name);
        std::thread::sleep(Duration::from_millis(900));
        kill(&mut child);
        assert!(!place.store.parts().unwrap().is_empty(), "something is kept");
    };
    let place = Place::new();
    begin(&place);
    // Ranges are ignored: everything comes again, and what is known is skipped.
    let ignoring = proxy(&registry, {
        let layers = image.layers.clone();
        move |asked, _, told| match layers.iter().find(|layer| asked.path.ends_with(&layer.digest())) {
            Some(layer) => Told::new(200, layer.bytes.clone()),
            None => told,
        }
    });
    let record = place.pull(&format!("{}/app:1", ignoring.host())).unwrap();
    assert_same(&place, &record, &want, "ranges ignored");
    // Other bytes under the same name: begun anew once, then refused, and nothing is left.
    let place = Place::new();
    begin(&place);
    let other = proxy(&registry, |asked, _, told| match asked.range() {
        Some((first, last)) => Told::new(206, noise(last - first + 1, 9))
            .with("Content-Range", &format!("bytes {first}-{last}/{}", last + 1)),
        None => told,
    });
    let record = place.pull(&format!("{}/app:1", other.host())).unwrap();
    assert_same(&place, &record, &want, "other bytes after a range");
    let place = Place::new();
    begin(&place);
    let sizes: Vec<(String, usize)> = image
        .layers
        .iter()
        .map(|layer| (layer.digest(), layer.bytes.len()))
        .collect();
    let wrong = proxy(&registry, move |asked, _, told| {
        match sizes.iter().find(|(digest, _)| asked.path.ends_with(digest)) {
            None => told,
            Some((_, size)) => Told::blob(asked, &noise(*size, 9)),
        }
    });
    let error = layer_error(place.pull(&format!("{}/app:1", wrong.host())).unwrap_err());
    assert!(
        matches!(
            error,
            LayerError::Digest { .. } | LayerError::Decode(_) | LayerError::DiffId { .. } | LayerError::Worker(_)
        ),
        "{error}"
    );
    // What the killed one held.
    sweep(&place.store, &*place.workers, false).unwrap();
    place.assert_empty("wrong bytes");
}

#[test]
fn two_pulls_of_one_layer_do_not_mix_even_when_one_is_killed() {
    let image = image();
    let (registry, name) = registry_with(&image);
    let (_, want) = calm(&name);
    let server = slow(&registry, 3 << 20);
    let place = Place::new();
    let pulled = format!("{}/app:1", server.host());
    let mut first = start(&place, &pulled);
    std::thread::sleep(Duration::from_millis(500));
    let mut second = start(&place, &pulled);
    std::thread::sleep(Duration::from_millis(1000));
    // Only the process: its helpers are still there for a moment.
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(second.wait().unwrap().success());
    let record = place.pull(&pulled).unwrap();
    sweep(&place.store, &*place.workers, false).unwrap();
    assert_same(&place, &record, &want, "two pulls");
    let repeated = server
        .served("/blobs/")
        .saturating_sub(bytes(&image) + 3 * image.config.bytes.len());
    assert!(repeated <= 2 * KILL_BYTES, "{repeated} bytes twice");
}

#[test]
fn what_is_on_the_device_costs_little_too() {
    for compression in [
        Compression::Gzip,
        Compression::Zstd,
        Compression::Plain,
        Compression::OneBlock,
    ] {
        let tar = Tree::new()
            .dir("d")
            .file("d/big", 0o644, mixed(24_000_000, 3))
            .file("d/end", 0o600, "end")
            .finish();
        let image = Recipe::new(host()).layer(tar, compression).build();
        let (registry, name) = registry_with(&image);
        let (_, want) = calm(&name);
        let server = slow(&registry, 12 << 20);
        let place = Place::new();
        let mut child = start(&place, &format!("{}/app:1", server.host()));
        let since = Instant::now();
        while server.served("/blobs/") < 10 << 20 {
            assert!(since.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(&mut child);
        // As after a power cut: only what was synced counts.
        for part in fs::read_dir(place.store.layout().tmp()).unwrap() {
            let part = part.unwrap().path();
            let names: Vec<_> = fs::read_dir(&part)
                .into_iter()
                .flatten()
                .map(|e| e.unwrap().file_name())
                .collect();
            if part.join("layer").exists() {
                let spooled = matches!(compression, Compression::Zstd | Compression::OneBlock);
                assert_eq!(
                    names.iter().any(|name| name == "spool"),
                    spooled,
                    "{compression:?}: {names:?}"
                );
            }
            let _ = fs::remove_file(part.join("mark"));
        }
        let before = server.served("/blobs/");
        sweep(&place.store, &*place.workers, false).unwrap();
        let record = place.pull(&format!("{}/app:1", server.host())).unwrap();
        assert_same(&place, &record, &want, "synced");
        let repeated = server.served("/blobs/") - bytes(&image) - 2 * image.config.bytes.len();
        println!("{compression:?}: {before} bytes, then {repeated} of them again");
        assert!(
            repeated <= 8 << 20,
            "{compression:?}: {repeated} of {before} bytes came twice"
        );
    }
}

/// A layer that replaces its own files, leads through its own links, and names directories late.
fn odd() -> Vec<u8> {
    let mut tree = Tree::new()
        .dir("real")
        .symlink("link", "real")
        .file("real/a", 0o644, mixed(400_000, 1));
    for number in 0..12u64 {
        tree = tree
            .file(&format!("link/through{number}"), 0o600, mixed(150_000, number))
            .hardlink(&format!("copy{number}"), "real/a")
            .file("real/a", 0o640, mixed(100_000 + number as usize, number + 50))
            .file(&format!("late{number}/x"), 0o644, mixed(50_000, number + 90));
    }
    tree.dir_mode("late3", 0o711)
        .whiteout("", "gone")
        .file("gone", 0o644, "back")
        .finish()
}

#[test]
fn layers_that_replace_their_own_files_come_out_the_same_after_kills() {
    let image = Recipe::new(host())
        .layer(tree(1), Compression::Gzip)
        .layer(odd(), Compression::Gzip)
        .layer(odd().into_iter().chain([0; 512]).collect(), Compression::Zstd)
        .build();
    let (registry, name) = registry_with(&image);
    let (_, want) = calm(&name);
    let server = slow(&registry, 4 << 20);
    let place = Place::new();
    let waits = (0..8).map(|n| Duration::from_millis(400 + n * 130));
    let (record, killed) = pull_with_kills(&place, &server, waits);
    assert!(killed > 1, "only {killed} were killed");
    assert_same(&place, &record, &want, "odd");
}

/// Sweeps until at least so many layers were given back (those without a mark go too): the workers of a killed pull end a moment after it, and hold theirs until then.
fn sweep_of(place: &Place, all: bool, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut swept = 0;
    while swept < count {
        assert!(Instant::now() < deadline, "{swept} of {count} were given back");
        swept += sweep(&place.store, &*place.workers, all).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a pull has kept something.
fn await_parts(place: &Place) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let kept = |place: &Place| {
        let parts = place.store.parts().unwrap();
        !parts.is_empty() && parts.iter().all(|part| part.mark.bytes > 0)
    };
    while !kept(place) {
        assert!(Instant::now() < deadline, "nothing was kept");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_kept_is_counted_and_given_back() {
    let image = image();
    let (registry, name) = registry_with(&image);
    let server = slow(&registry, 4 << 20);
    let place = Place::new();
    let mut child = start(&place, &format!("{}/app:1", server.host()));
    await_parts(&place);
    kill(&mut child);
    let parts = place.store.parts().unwrap();
    assert!(parts.iter().all(|part| part.mark.bytes > 0), "{parts:?}");
    // Kept by a sweep and by a check, gone when everything that is not used is to go.
    // A layer that has no mark yet goes with the first sweep, those that have one stay.
    sweep(&place.store, &*place.workers, false).unwrap();
    assert_eq!(place.store.parts().unwrap().len(), parts.len());
    assert!(place.store.survey().unwrap().faults.is_empty());
    sweep_of(&place, true, parts.len());
    discard(&place.store.tidy().unwrap(), &*place.workers).unwrap();
    place.assert_empty("given back");
    // One that nobody came back to for long is swept.
    let mut child = start(&place, &format!("{}/app:1", server.host()));
    await_parts(&place);
    kill(&mut child);
    let parts = place.store.parts().unwrap();
    for part in &parts {
        let dir = place.store.layout().tmp().join(format!("part-{}", part.diff.hex()));
        let old = std::time::SystemTime::now() - Duration::from_millis(dunlin::types::bounds::PART_LIFE_MS + 1000);
        fs::File::open(dir.join("mark")).unwrap().set_modified(old).unwrap();
    }
    sweep_of(&place, false, parts.len());
    discard(&place.store.tidy().unwrap(), &*place.workers).unwrap();
    place.assert_empty("too old");
    place.pull(&name).unwrap();
}

#[test]
fn a_pulled_image_that_is_about_to_be_pinned_is_not_pruned() {
    let image = Recipe::busybox(host()).build();
    let (_registry, name) = registry_with(&image);
    let place = Place::new();
    let holds = dunlin::image::pull::Holds::default();
    let options = dunlin::image::pull::PullOptions {
        holds: Some(holds.clone()),
        ..options()
    };
    let reference: Reference = name.parse().unwrap();
    let client = crate::pull::client();
    // Fetched, and found to be there.
    for _ in 0..2 {
        let mut silent = |_| ();
        let get = pull(&place.store, &client, &place.workers, &reference, &options, &mut silent);
        let pulled = crate::pull::block(get).unwrap();
        assert!(place.store.prune(true).unwrap().images.is_empty());
        holds.lock().unwrap().remove(0);
        if holds.lock().unwrap().is_empty() {
            place.pull(&name).unwrap();
        }
        assert!(place.store.image(&pulled.id).unwrap().is_some());
    }
    let gone = place.store.prune(true).unwrap();
    assert_eq!(gone.images.len(), 1);
    discard(&gone, &*place.workers).unwrap();
}

#[test]
fn a_damaged_record_of_the_format_is_told_and_mended() {
    let place = Place::new();
    let format = place.store.layout().data().join("format");
    fs::write(&format, b"DUN1 is not what it was").unwrap();
    let store = dunlin::store::Store::open(place.store.layout()).unwrap();
    let faults = store.survey().unwrap().faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].remedy, dunlin::store::Remedy::Remove(format.clone()));
    fs::remove_file(&format).unwrap();
    dunlin::store::Store::open(place.store.layout()).unwrap();
    assert!(format.exists() && store.survey().unwrap().faults.is_empty());
}
