//! What comes out of the store is what went in: the archive of every layer, byte for byte.

use crate::fixture::arch::Arch;
use crate::fixture::cmd::Cmd;
use crate::fixture::images::{Compression, Format, Index, Recipe, digest};
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::fixture::workers::{Surroundings, open_to_all};
use crate::pull::take_layout;
use dunlin::disk::layout::Layout;
use dunlin::image::pack;
use dunlin::image::worker::Workers;
use dunlin::store::{ImageRecord, Store};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;

fn store(scratch: &Scratch, surroundings: &Surroundings) -> Store {
    open_to_all(scratch.path());
    let store = Store::open(&Layout::new(scratch.join("data"), scratch.join("run"))).unwrap();
    match surroundings.owner() {
        Some(owner) => store.with_tree_owner(owner, owner).unwrap(),
        None => store,
    }
}

fn pull(store: &Store, workers: &Arc<dyn Workers>, folder: &Path) -> ImageRecord {
    take_layout(store, workers, folder, None).unwrap()
}

/// The archive of one layer as the store makes it again.
fn again(store: &Store, workers: &Arc<dyn Workers>, image: &ImageRecord, layer: usize) -> Result<Vec<u8>, String> {
    let mut archive = pack::layer(store, &**workers, &image.layers[layer]).map_err(|e| e.to_string())?;
    let bytes = archive.length();
    let mut all = Vec::new();
    archive.read_to_end(&mut all).map_err(|e| e.to_string())?;
    assert_eq!(bytes, all.len() as u64);
    Ok(all)
}

fn layout(scratch: &Scratch, layers: &[Vec<u8>]) -> std::path::PathBuf {
    let recipe = layers.iter().fold(Recipe::new(Arch::host()), |recipe, layer| {
        recipe.layer(layer.clone(), Compression::Gzip)
    });
    let folder = scratch.folder("layout");
    Index::new(Format::Oci, vec![recipe.build()]).write_layout(&folder, "v1");
    folder
}

/// Archives of GNU tar with long names, links and holes.
fn gnu(scratch: &Scratch) -> Vec<Vec<u8>> {
    let from = scratch.folder("from");
    let long = "a-rather-long-name-".repeat(12);
    fs::create_dir_all(from.join("sub").join("d/".repeat(60))).unwrap();
    fs::write(from.join("sub").join("d/".repeat(60)).join(&long), "deep").unwrap();
    fs::write(
        from.join("big"),
        (0..300_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>(),
    )
    .unwrap();
    fs::hard_link(from.join("big"), from.join("sub/hard")).unwrap();
    symlink("t/".repeat(80), from.join("far")).unwrap();
    let sparse = fs::File::create(from.join("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 5 << 20).unwrap();
    sparse.set_len(11 << 20).unwrap();
    let many = fs::File::create(from.join("holes")).unwrap();
    (0..40).for_each(|n| many.write_all_at(b"x", n << 17).unwrap());
    fs::File::create(from.join("hole")).unwrap().set_len(3 << 20).unwrap();
    let formats: [&[&str]; 6] = [
        &["--format=gnu", "--sparse"],
        &["--format=oldgnu", "--sparse", "-b", "1"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0", "-b", "200"],
        &["--format=pax"],
    ];
    let archive = scratch.join("a.tar");
    let pack = |flags: &&[&str]| {
        let tar = Cmd::new("tar").args(["--owner=0", "--group=0"]).args(*flags);
        tar.arg("-cf").arg(&archive).arg("-C").arg(&from).arg(".").ok();
        fs::read(&archive).unwrap()
    };
    formats.iter().map(pack).collect()
}

/// What no tool writes, but an archive may be.
fn odd() -> Vec<Vec<u8>> {
    let noise: Vec<u8> = (0..900_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut padded = Tree::new().file("a", 0o644, "x").finish();
    padded.extend_from_slice(&noise);
    let mut cut = Tree::new().file("a", 0o644, vec![7; 700]).unfinished();
    cut.truncate(cut.len() - 100);
    vec![
        Tree::new().finish(),
        // No blocks at the end, and not even the last file's padding.
        Tree::new().dir("d").file("d/f", 0, "x").unfinished(),
        cut,
        padded,
        // The same path again and again, with other types between, a replaced file that has another name, and a replaced folder.
        Tree::new()
            .file("same", 0o644, &noise)
            .hardlink("other", "same")
            .file("same", 0, "second")
            .file("same", 0o600, &noise[..100_000])
            .symlink("same", "elsewhere")
            .file("same", 0o644, "last")
            .dir("folder")
            .dir("folder/in")
            .file("folder/in/one", 0, &noise[..5000])
            .file("folder/two", 0o644, &noise[5000..9000])
            .file("folder", 0o644, "now a file")
            .file("kept", 0o644, "kept")
            .hardlink("kept", "other")
            .finish(),
        // Through symbolic links, and a file that was put there replaced by its real path, and the other way round.
        Tree::new()
            .dir("real")
            .symlink("link", "real")
            .file("link/a", 0o644, &noise[..70_000])
            .file("real/a", 0o644, "a again")
            .file("real/b", 0o644, &noise[70_000..150_000])
            .file("link/b", 0o644, "b again")
            .file("link/c", 0o644, "c")
            .finish(),
        Tree::new()
            .whiteout("etc", "noted")
            .opaque("lib")
            .file("x/.wh..wh.plnk/1.2", 0o644, "left over")
            .device("dev/null")
            .fifo("pipe")
            .pax(&[("SCHILY.xattr.user.note", b"kept"), ("comment", b"\xff\0\n")])
            .file("etc/with", 0o4755, "attributes")
            .hardlink("again", "etc/with")
            .finish(),
    ]
}

#[test]
fn every_archive_comes_out_as_it_went_in() {
    for surroundings in Surroundings::all() {
        let label = surroundings.name();
        let scratch = Scratch::new("pack");
        let layers = [gnu(&scratch), odd()].concat();
        let folder = layout(&scratch, &layers);
        let store = store(&scratch, &surroundings);
        let workers = surroundings.workers();
        let image = pull(&store, &workers, &folder);
        for (number, layer) in layers.iter().enumerate() {
            let got = again(&store, &workers, &image, number);
            let got = got.unwrap_or_else(|e| panic!("{label}: layer {number}: {e}"));
            assert!(got == *layer, "{label}: layer {number} of {} bytes", layer.len());
        }
    }
}

#[test]
fn a_damaged_or_missing_part_is_named() {
    let surroundings = &Surroundings::all()[0];
    let scratch = Scratch::new("pack-damage");
    let layer = Tree::new()
        .file("a", 0o644, vec![5; 100_000])
        .file("b", 0o644, "b")
        .finish();
    let folder = layout(&scratch, std::slice::from_ref(&layer));
    let store = store(&scratch, surroundings);
    let workers = surroundings.workers();
    let image = pull(&store, &workers, &folder);
    let place = store.layout().layers().join(image.layers[0].key.hex());
    assert_eq!(
        again(&store, &workers, &image, 0).map(|all| digest(&all)),
        Ok(digest(&layer))
    );
    let fails = |what: &[&str]| {
        let error = again(&store, &workers, &image, 0).map(|all| all.len()).unwrap_err();
        for what in [
            &[&*image.layers[0].diff.to_string(), "`dunlin system check --repair`"],
            what,
        ]
        .concat()
        {
            assert!(error.contains(what), "{error}");
        }
    };
    crate::check::flip(&place.join("diff/a"));
    fails(&["its archive has the digest"]);
    crate::check::flip(&place.join("diff/a"));
    fs::remove_file(place.join("diff/b")).unwrap();
    fails(&["`b`"]);
    fs::write(place.join("diff/b"), "b").unwrap();
    assert!(again(&store, &workers, &image, 0).is_ok());
    let recipe = fs::File::options().write(true).open(place.join("recipe")).unwrap();
    recipe.write_all_at(&[0xff; 20], 14).unwrap();
    fails(&[]);
    fs::remove_file(place.join("recipe")).unwrap();
    fails(&["how its archive is made was not kept"]);
}
