//! What is unpacked is what was packed: against GNU tar in all its formats, and against podman for whole images.

use crate::fixture::arch::Arch;
use crate::fixture::cmd::{Cmd, dunlin};
use crate::fixture::images::{Compression, Format, Index, Recipe};
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::fixture::workers::{Layers, Surroundings, open_to_all};
use crate::pull::take_layout;
use crate::skip;
use dunlin::disk::layout::Layout;
use dunlin::image::worker::{Children, Workers};
use dunlin::store::Store;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::sync::Arc;

/// Whose times count.
#[derive(Clone, Copy, PartialEq)]
pub enum Times {
    OfAll,
    OfNone,
}

/// Everything that matters of a tree, by path: type, mode, owner, time, links, target or content, attributes.
pub fn picture(root: &Path, times: Times) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    walk(root, root, times, &mut all);
    all
}

fn walk(root: &Path, dir: &Path, times: Times, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() {
            crate::fixture::images::digest(&fs::read(&path).unwrap())
        } else if meta.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else {
            String::new()
        };
        let mut attributes = Vec::new();
        if meta.is_file() || meta.is_dir() {
            let file = fs::File::open(&path).unwrap();
            for name in dunlin::sys::fs::list_xattrs(&file).unwrap() {
                let value = dunlin::sys::fs::get_xattr(&file, &name).unwrap();
                attributes.push(format!("{}={value:?}", String::from_utf8_lossy(&name)));
            }
            attributes.sort();
        }
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        let name = format!("{:?}", path.strip_prefix(root).unwrap());
        let (mode, uid, gid, size) = (
            meta.mode(),
            meta.uid(),
            meta.gid(),
            if meta.is_dir() { 0 } else { meta.size() },
        );
        let text = format!(
            "{mode:o} {uid}:{gid} {size} {} {links} {content} {attributes:?}",
            if times == Times::OfAll { meta.mtime() } else { 0 }
        );
        all.insert(name, text);
        if meta.is_dir() {
            walk(root, &path, times, all);
        }
    }
}

pub fn same(label: &str, ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) {
    for (path, want) in theirs {
        assert_eq!(ours.get(path), Some(want), "{label}: {path}");
    }
    for path in ours.keys() {
        assert!(theirs.contains_key(path), "{label}: {path} is too much");
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A tree with everything that a format can hold; `rich` for those that hold everything.
fn sources(dir: &Path, rich: bool) {
    fs::create_dir_all(dir.join("sub/deep")).unwrap();
    fs::write(dir.join("file"), "content").unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("sub/big"), vec![0xa5; 700_001]).unwrap();
    fs::hard_link(dir.join("file"), dir.join("sub/hard")).unwrap();
    symlink("../file", dir.join("sub/soft")).unwrap();
    symlink("/nowhere", dir.join("dangling")).unwrap();
    Cmd::new("mkfifo").arg(dir.join("fifo")).ok();
    lchown(dir.join("sub/soft"), Some(7), Some(8)).unwrap();
    lchown(dir.join("sub/big"), Some(1234), Some(5678)).unwrap();
    mode(&dir.join("sub/big"), 0o6711);
    mode(&dir.join("sub/deep"), 0o1777);
    mode(&dir.join("empty"), 0);
    if rich {
        let long = "a-rather-long-name-".repeat(12);
        fs::write(dir.join("sub").join(&long), "long").unwrap();
        fs::create_dir_all(dir.join("sub").join("d/".repeat(60))).unwrap();
        fs::write(dir.join("sub").join("d/".repeat(60)).join(&long), "deep").unwrap();
        fs::hard_link(dir.join("sub").join(&long), dir.join("sub/linked")).unwrap();
        symlink("t/".repeat(80), dir.join("far")).unwrap();
        fs::write(dir.join(std::ffi::OsStr::from_bytes(b"not\xffutf8\n")), "x").unwrap();
        let sparse = fs::File::create(dir.join("sparse")).unwrap();
        sparse.write_all_at(b"in the middle", 5 << 20).unwrap();
        sparse.write_all_at(b"later", 9 << 20).unwrap();
        sparse.set_len(11 << 20).unwrap();
        let many = fs::File::create(dir.join("holes")).unwrap();
        (0..40).for_each(|n| many.write_all_at(b"x", n << 17).unwrap());
        let hole = fs::File::create(dir.join("hole")).unwrap();
        hole.set_len(3 << 20).unwrap();
        lchown(dir.join("empty"), Some(60_000), Some(60_001)).unwrap();
    }
    let old = "200101010101.01";
    Cmd::new("touch")
        .args(["-h", "-t", old])
        .arg(dir.join("file"))
        .arg(dir.join("sub/deep"))
        .arg(dir.join("dangling"))
        .ok();
}

#[test]
fn all_formats_of_gnu_tar_come_out_as_tar_unpacks_them() {
    let (uid, _) = dunlin::sys::creds::effective_ids();
    if uid != 0 {
        skip!("files of other users need root");
    }
    let plain = Surroundings::Plain(Arc::new(Children { program: dunlin() }));
    let layers = Layers::new("formats");
    let (small, rich) = (layers.scratch.folder("small"), layers.scratch.folder("rich"));
    sources(&small, false);
    sources(&rich, true);
    let attributed = fs::File::open(rich.join("file")).unwrap();
    dunlin::sys::fs::set_xattr(&attributed, b"user.note", b"a\0b=c\n").unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    dunlin::sys::fs::set_xattr(&attributed, b"security.capability", &capability).unwrap();
    let formats: [(&str, bool, &[&str]); 10] = [
        ("v7", false, &[]),
        ("ustar", false, &[]),
        ("oldgnu", true, &[]),
        ("gnu", true, &[]),
        ("gnu", true, &["--sparse"]),
        ("oldgnu", true, &["--sparse"]),
        ("pax", true, &["--xattrs", "--xattrs-include=*"]),
        ("pax", true, &["--sparse", "--sparse-version=0.0"]),
        ("pax", true, &["--sparse", "--sparse-version=0.1"]),
        (
            "pax",
            true,
            &["--sparse", "--sparse-version=1.0", "--xattrs", "--xattrs-include=*"],
        ),
    ];
    for (number, (format, is_rich, flags)) in formats.into_iter().enumerate() {
        let label = format!("{format} {flags:?}");
        let archive = layers.scratch.join(format!("{number}.tar"));
        let from = if is_rich { &rich } else { &small };
        // v7 has no fifos.
        let exclude = if format == "v7" {
            "--exclude=./fifo"
        } else {
            "--exclude=./none"
        };
        let pack = Cmd::new("tar")
            .args(["--format", format, "--numeric-owner", "-b", "1", "-cf"])
            .arg(&archive);
        pack.args(flags).arg(exclude).arg("-C").arg(from).arg(".").ok();
        let theirs = layers.scratch.folder(&format!("theirs-{number}"));
        let unpack = Cmd::new("tar")
            .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"])
            .arg(&archive);
        unpack.arg("-C").arg(&theirs).ok();
        let name = format!("l{number}");
        let limits = dunlin::image::unpack::Limits {
            bytes: 64 << 20,
            archive: 64 << 20,
            entries: 1000,
        };
        let stats = layers
            .unpack_within(&plain, &name, fs::read(&archive).unwrap(), &[], limits)
            .unwrap();
        same(
            &label,
            &picture(&layers.tree(&name), Times::OfAll),
            &picture(&theirs, Times::OfAll),
        );
        assert_eq!(stats.archive, fs::metadata(&archive).unwrap().len(), "{label}");
        assert!(stats.root.is_some() && !stats.leans, "{label}");
        if flags.contains(&"--sparse") {
            let sparse = fs::metadata(layers.tree(&name).join("sparse")).unwrap();
            assert!(sparse.blocks() * 512 < 1 << 20, "{label}: holes stay holes");
        }
    }
}

/// Two layers with what layers do to each other.
fn layered() -> Index {
    let lower = Tree::new()
        .dir("etc")
        .file("etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\n")
        .file("etc/gone", 0o644, "x")
        .owned_file("etc/shadow", 0o640, 42, "secret")
        .dir_mode("var", 0o755)
        .dir_mode("var/tmp", 0o1777)
        .dir("var/cache")
        .file("var/cache/old", 0o644, "old")
        .file("bin", 0o4755, "becomes a folder")
        .dir("lib")
        .file("lib/x", 0o644, "becomes a link")
        .hardlink("etc/again", "etc/passwd")
        .symlink("etc/absolute", "/etc/passwd")
        .fifo("pipe")
        .finish();
    let upper = Tree::new()
        .dir("etc")
        .whiteout("etc", "gone")
        .file("etc/new", 0o600, "new")
        .dir("var")
        .dir_mode("var/cache", 0o750)
        .opaque("var/cache")
        .file("var/cache/fresh", 0o644, "fresh")
        .dir("bin")
        .file("bin/sh", 0o755, "a program")
        .whiteout(".", "lib")
        .symlink("lib", "usr/lib")
        .dir("usr")
        .dir("usr/lib")
        .pax(&[("SCHILY.xattr.user.note", b"kept")])
        .file("usr/lib/y", 0o644, "y")
        .finish();
    Index::new(
        Format::Oci,
        vec![
            Recipe::new(Arch::host())
                .layer(lower, Compression::Gzip)
                .layer(upper, Compression::Zstd)
                .build(),
        ],
    )
}

#[test]
fn an_image_looks_as_podman_unpacks_it() {
    let (uid, _) = dunlin::sys::creds::effective_ids();
    if uid != 0 {
        skip!("podman's storage is looked into as root");
    }
    let scratch = Scratch::new("like-podman");
    open_to_all(scratch.path());
    let folder = scratch.folder("layout");
    layered().write_layout(&folder, "v1");
    let podman = || {
        let podman = Cmd::new("podman")
            .arg("--root")
            .arg(scratch.join("podman"))
            .arg("--runroot")
            .arg(scratch.join("run"));
        podman.args(["--storage-driver", "vfs"]).env("HOME", scratch.path())
    };
    let pulled = podman().arg("pull").arg(format!("oci:{}:v1", folder.display())).run();
    if pulled.code != 0 {
        skip!("podman cannot pull here: {}", pulled.stderr);
    }
    let id = pulled.stdout.trim().to_owned();
    let theirs = podman().args(["image", "mount", &id]).ok();
    let store = Store::open(&Layout::new(scratch.join("data"), scratch.join("runroot"))).unwrap();
    let workers: Arc<dyn Workers> = Arc::new(Children { program: dunlin() });
    let image = take_layout(&store, &workers, &folder, Some("v1")).unwrap();
    let flat = scratch.folder("flat");
    let all = dunlin::sys::fs::name_dir(&store.layout().layers()).unwrap();
    let to = dunlin::sys::fs::name_dir(&flat).unwrap();
    dunlin::image::worker::copy(&*workers, all.as_fd(), store.trees(&image).unwrap(), to.as_fd()).unwrap();
    let (mut ours, mut theirs) = (
        picture(&flat, Times::OfAll),
        picture(Path::new(theirs.trim()), Times::OfAll),
    );
    // The folder whose opaque mark podman applies keeps no time there: its deletions come after.
    for picture in [&mut ours, &mut theirs] {
        picture.retain(|path, _| path != "\"var/cache\"");
    }
    same("podman", &ours, &theirs);
    podman().args(["image", "unmount", &id]).ok();
    podman().args(["rmi", "-f", &id]).ok();
}

#[test]
fn trees_of_any_mode_and_depth_are_removed() {
    for surroundings in Surroundings::all() {
        let layers = Layers::new("removal");
        let mut archive = Tree::new().dir_mode("closed", 0);
        for n in 0..3000 {
            archive = archive.file(&format!("many/{n}"), 0, "");
        }
        archive = archive
            .dir(&"d/".repeat(249))
            .file(&format!("{}f", "d/".repeat(249)), 0, "x");
        if surroundings.has_ids() {
            archive = archive.owned_file("owned", 0o400, 1000, "x");
        }
        archive = archive
            .file("closed/file", 0, "x")
            .dir_mode("closed", 0)
            .dir_mode(".", 0);
        layers.unpack(&surroundings, "l", &archive.finish(), &[]).unwrap();
        dunlin::image::worker::remove_tree(&*surroundings.workers(), &layers.tree("l")).unwrap();
        assert!(!layers.tree("l").exists(), "{}", surroundings.name());
        dunlin::image::worker::remove_tree(&*surroundings.workers(), &layers.tree("l")).unwrap();
    }
    // Deeper than any path can say.
    let scratch = Scratch::new("abyss");
    let mut dir = dunlin::sys::fs::open_dir(&scratch.folder("abyss")).unwrap();
    for _ in 0..5000 {
        dunlin::sys::fs::mkdir_at(&dir, b"deep", 0o700).unwrap();
        dir = dunlin::sys::fs::open_dir_at(&dir, b"deep").unwrap();
    }
    let workers = Children { program: dunlin() };
    dunlin::image::worker::remove_tree(&workers, &scratch.join("abyss")).unwrap();
    assert!(!scratch.join("abyss").exists());
}
