//! What `system check` finds: every kind of damage by layer, path and what, and nothing where there is none.

use crate::fixture::arch::Arch;
use crate::fixture::images::{Compression, Format, Index, Recipe};
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::fixture::workers::{Surroundings, open_to_all};
use crate::pull::take_layout;
use dunlin::disk::layout::Layout;
use dunlin::image::check::{self, Layer};
use dunlin::image::worker::Workers;
use dunlin::store::{ImageRecord, Store};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A store with an image of two layers; the upper one leans on the lower one.
struct Place {
    scratch: Scratch,
    store: Store,
    workers: Arc<dyn Workers>,
    image: ImageRecord,
}

impl Place {
    fn new(surroundings: &Surroundings) -> Place {
        let scratch = Scratch::new("check");
        open_to_all(scratch.path());
        let mut lower = Tree::new()
            .dir("etc")
            .pax(&[("SCHILY.xattr.user.note", b"kept")])
            .file("etc/noted", 0o644, "note")
            .file("etc/big", 0o600, vec![7; 300_000])
            .file("etc/closed", 0, "closed")
            .file("etc/replaced", 0o644, "first")
            .file("etc/replaced", 0o640, "second")
            .dir("lib")
            .file("lib/x", 0o4755, "x")
            .hardlink("lib/y", "lib/x")
            .symlink("link", "etc/big")
            .fifo("pipe");
        if surroundings.has_ids() {
            lower = lower.owned_file("etc/owned", 0o600, 1000, "mine");
        }
        let upper = Tree::new()
            .whiteout("etc", "noted")
            .opaque("lib")
            .hardlink("etc/again", "etc/big")
            .file("new/place/file", 0o644, "new")
            .finish();
        let image = Recipe::new(Arch::host())
            .layer(lower.finish(), Compression::Gzip)
            .layer(upper, Compression::Zstd)
            .build();
        let folder = scratch.folder("layout");
        Index::new(Format::Oci, vec![image]).write_layout(&folder, "v1");
        let mut store = Store::open(&Layout::new(scratch.join("data"), scratch.join("run"))).unwrap();
        if let Some(owner) = surroundings.owner() {
            store = store.with_tree_owner(owner, owner).unwrap();
        }
        let workers = surroundings.workers();
        let image = pull_into(&store, &workers, &folder);
        Place {
            scratch,
            store,
            workers,
            image,
        }
    }

    fn folder(&self, layer: usize) -> PathBuf {
        self.store.layout().layers().join(self.image.layers[layer].key.hex())
    }

    fn tree(&self, layer: usize) -> PathBuf {
        self.folder(layer).join("diff")
    }

    fn check(&self, layer: usize, quick: bool) -> Layer {
        let key = self.image.layers[layer].key;
        check::layer(&self.store, &*self.workers, &key, quick, &mut |_| ()).unwrap()
    }

    /// `PATH WHAT` of everything wrong in a layer.
    fn wrong(&self, layer: usize, quick: bool) -> Vec<String> {
        let found = self.check(layer, quick);
        let line = |one: dunlin::image::sums::Finding| format!("{} {}", one.path, one.wrong);
        found.findings.into_iter().map(line).collect()
    }
}

fn pull_into(store: &Store, workers: &Arc<dyn Workers>, folder: &Path) -> ImageRecord {
    take_layout(store, workers, folder, Some("v1")).unwrap()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Changes one byte and leaves size and time alone.
pub fn flip(path: &Path) {
    let meta = fs::metadata(path).unwrap();
    mode(path, 0o600);
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    let at = meta.len() / 2;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    mode(path, meta.mode() & 0o7777);
}

#[test]
fn what_was_just_unpacked_is_as_recorded_in_every_surrounding() {
    for surroundings in Surroundings::all() {
        let place = Place::new(&surroundings);
        let label = surroundings.name();
        assert!(place.store.layer(&place.image.layers[1].key).unwrap().unwrap().leans);
        for layer in 0..2 {
            let found = place.check(layer, false);
            assert!(found.is_good() && !found.not_checkable, "{label}: {found:?}");
            assert!(found.entries >= 9 && found.bytes >= 300_000, "{label}: {found:?}");
            let quick = place.check(layer, true);
            assert_eq!((quick.bytes, quick.entries), (0, found.entries), "{label}");
        }
        assert_eq!(place.scratch.mounts(), Vec::<PathBuf>::new());
    }
}

type Harm = fn(&Path);

#[test]
fn every_kind_of_damage_is_named() {
    let (uid, _) = dunlin::sys::creds::effective_ids();
    if uid != 0 {
        crate::skip!("files of other users are damaged as root");
    }
    // What is done to the lower layer, what is found, and whether a quick look finds it too.
    let table: &[(Harm, &[&str], bool)] = &[
        (|t| flip(&t.join("etc/big")), &["/etc/big has other content"], false),
        (
            |t| flip(&t.join("etc/closed")),
            &["/etc/closed has other content"],
            false,
        ),
        (
            |t| flip(&t.join("lib/x")),
            &["/lib/x has other content", "/lib/y has other content"],
            false,
        ),
        (
            |t| fs::remove_file(t.join("lib/x")).unwrap(),
            &["/lib/x is missing"],
            true,
        ),
        (
            |t| fs::remove_dir_all(t.join("etc")).unwrap(),
            &["/etc is missing"],
            true,
        ),
        (
            |t| fs::write(t.join("etc/a"), "").unwrap(),
            &["/etc/a is too much"],
            true,
        ),
        (
            |t| {
                fs::create_dir(t.join("zz")).unwrap();
                fs::write(t.join("zz/in"), "").unwrap();
            },
            &["/zz is too much"],
            true,
        ),
        (
            |t| mode(&t.join("lib"), 0o777),
            &["/lib has the mode 0777 instead of 0755"],
            true,
        ),
        (
            |t| lchown(t.join("link"), Some(5), Some(6)).unwrap(),
            &["/link belongs to 5:6 instead of 0:0"],
            true,
        ),
        (
            |t| {
                fs::remove_file(t.join("link")).unwrap();
                symlink("etc/bog", t.join("link")).unwrap();
            },
            &["/link points elsewhere"],
            true,
        ),
        (
            |t| {
                fs::remove_dir_all(t.join("etc")).unwrap();
                fs::write(t.join("etc"), "").unwrap();
            },
            &["/etc is of another type"],
            true,
        ),
        (
            |t| {
                fs::File::options()
                    .write(true)
                    .open(t.join("etc/big"))
                    .unwrap()
                    .set_len(9)
                    .unwrap()
            },
            &["/etc/big has 9 bytes instead of 300000"],
            true,
        ),
        (
            |t| {
                let file = fs::File::open(t.join("etc/noted")).unwrap();
                dunlin::sys::fs::set_xattr(&file, b"user.note", b"lost").unwrap();
            },
            &["/etc/noted has other extended attributes"],
            true,
        ),
    ];
    let plain = &Surroundings::all()[0];
    for (harm, want, quickly) in table {
        let place = Place::new(plain);
        harm(&place.tree(0));
        assert_eq!(place.wrong(0, false), *want);
        let quick: &[&str] = if *quickly { want } else { &[] };
        assert_eq!(place.wrong(0, true), quick);
        assert!(place.check(1, false).is_good(), "the other layer is as it was");
    }
    // More than are listed are counted.
    let place = Place::new(plain);
    (0..300).for_each(|n| fs::write(place.tree(0).join(format!("n{n}")), "").unwrap());
    let found = place.check(0, true);
    assert_eq!((found.findings.len(), found.more), (200, 100));
    // A damaged or lost recipe is found.
    let recipe = place.folder(1).join("recipe");
    flip(&recipe);
    assert!(place.check(1, false).recipe_damaged && !place.check(1, true).recipe_damaged);
    fs::remove_file(&recipe).unwrap();
    assert!(place.check(1, false).recipe_damaged && place.check(1, true).recipe_damaged);
    // Damaged sums are found; without any, the layer is as good as it ever was.
    flip(&place.folder(1).join("sums"));
    assert!(place.check(1, false).sums_damaged);
    fs::remove_file(place.folder(1).join("sums")).unwrap();
    let found = place.check(1, false);
    assert!(found.not_checkable && found.is_good());
    assert_eq!(place.store.lowers(&place.image).unwrap().len(), 2);
}

#[test]
fn files_with_holes_are_compared_by_what_they_hold() {
    let scratch = Scratch::new("holes");
    let archive = scratch.join("a.tar");
    let sources = scratch.folder("sources");
    let file = fs::File::create(sources.join("sparse")).unwrap();
    file.write_all_at(b"in the middle", 5 << 20).unwrap();
    file.set_len(11 << 20).unwrap();
    let pack = crate::fixture::cmd::Cmd::new("tar").args(["--format=pax", "--sparse", "-cf"]);
    pack.arg(&archive).arg("-C").arg(&sources).arg(".").ok();
    let image = Recipe::new(Arch::host())
        .layer(fs::read(&archive).unwrap(), Compression::Gzip)
        .build();
    let folder = scratch.folder("layout");
    Index::new(Format::Oci, vec![image]).write_layout(&folder, "v1");
    let store = Store::open(&Layout::new(scratch.join("data"), scratch.join("run"))).unwrap();
    let workers = Surroundings::all()[0].workers();
    let image = pull_into(&store, &workers, &folder);
    let key = image.layers[0].key;
    let look = || check::layer(&store, &*workers, &key, false, &mut |_| ()).unwrap();
    let found = look();
    assert!(found.is_good() && found.bytes < 1 << 20, "{found:?}");
    let path = store.layout().layers().join(key.hex()).join("diff/sparse");
    let file = fs::File::options().write(true).open(&path).unwrap();
    // Zeros where a hole was are the same file; anything else is not.
    file.write_all_at(&[0; 5000], 1 << 20).unwrap();
    assert!(look().is_good());
    file.write_all_at(b"x", 2 << 20).unwrap();
    assert_eq!(look().findings.len(), 1);
}
