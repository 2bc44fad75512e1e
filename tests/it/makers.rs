//! Images of all who make images are unpacked as podman unpacks them: by skopeo, buildah, umoci, podman and ourselves, in both
//! formats, compressed in all ways, with many layers and odd deletions. Trees are compared by path, type, mode, owner, size, links,
//! link target, content and extended attributes.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fixture::arch::Arch;
use crate::fixture::cmd::Cmd;
use crate::fixture::cmd::dunlin;
use crate::fixture::images::{Compression, Format, Index, Recipe};
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::fixture::workers::open_to_all;
use crate::pull::take;
use crate::skip;
use crate::unpack::{Times, picture, same};
use dunlin::disk::layout::Layout;
use dunlin::image::layout::Transport;
use dunlin::image::worker::{Children, Workers};
use dunlin::store::Store;

const TAG: &str = "v1";

/// Both engines, each with a storage of its own.
struct Both {
    scratch: Scratch,
    store: Store,
    workers: Arc<dyn Workers>,
    all: BTreeMap<String, String>,
}

impl Both {
    /// `None`, with the reason, where podman cannot be asked.
    fn new() -> Result<Both, String> {
        let (uid, _) = dunlin::sys::creds::effective_ids();
        if uid != 0 {
            return Err("podman's storage is looked into as root".to_owned());
        }
        let scratch = Scratch::new("makers");
        open_to_all(scratch.path());
        let store = Store::open(&Layout::new(scratch.join("data"), scratch.join("runroot"))).unwrap();
        Ok(Both {
            store,
            scratch,
            workers: Arc::new(Children { program: dunlin() }),
            all: BTreeMap::new(),
        })
    }

    /// podman or buildah on the peers' storage.
    fn peer(&self, program: &str) -> Cmd {
        let peer = Cmd::new(program).arg("--root").arg(self.scratch.join("peers"));
        let peer = peer.arg("--runroot").arg(self.scratch.join("peers-run"));
        peer.args(["--storage-driver", "vfs"]).env("HOME", self.scratch.path())
    }

    /// Takes the image at a place into both storages and compares what came of it.
    fn compare(&mut self, label: &str, transport: Transport, place: &Path) {
        let (word, tag) = match transport {
            Transport::Dir => ("dir", None),
            _ => ("oci", Some(TAG)),
        };
        let tagged = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        let source = format!("{word}:{}{tagged}", place.display());
        let id = self.peer("podman").args(["pull", "-q", &source]).ok().trim().to_owned();
        let theirs = self.peer("podman").args(["image", "mount", &id]).ok();
        let image = take(&self.store, &self.workers, transport, place, tag).unwrap();
        assert_eq!(image.id.hex(), id, "{label}: the image's id");
        let flat = self.scratch.folder(&format!("flat-{}", self.all.len()));
        let layers = dunlin::sys::fs::name_dir(&self.store.layout().layers()).unwrap();
        let to = dunlin::sys::fs::name_dir(&flat).unwrap();
        let trees = self.store.trees(&image).unwrap();
        dunlin::image::worker::copy(&*self.workers, layers.as_fd(), trees, to.as_fd()).unwrap();
        let (ours, theirs) = (
            picture(&flat, Times::OfNone),
            picture(Path::new(theirs.trim()), Times::OfNone),
        );
        assert!(!theirs.is_empty(), "{label}: there is something to compare");
        same(label, &ours, &theirs);
        self.all.insert(label.to_owned(), id);
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        for id in self.all.values() {
            self.peer("podman").args(["image", "unmount", "-f", id]).run();
            self.peer("podman").args(["rmi", "-f", id]).run();
        }
    }
}

/// A folder with files of several kinds, modes and owners.
fn files(dir: &Path) -> PathBuf {
    for folder in ["etc", "var/cache", "var/tmp", "opt/program", "home/user"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    let write = |name: &str, mode: u32, owner: u32, content: &str| {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        lchown(&path, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("etc/passwd", 0o644, 0, "root:x:0:0::/:/bin/sh\n");
    write("etc/shadow", 0o640, 42, "secret\n");
    write("etc/gone", 0o644, 0, "to be deleted\n");
    write("var/cache/old", 0o644, 0, "old\n");
    write("opt/program/run", 0o4755, 0, "#!/bin/sh\n");
    write("opt/file", 0o644, 0, "to become a folder\n");
    write("home/user/notes", 0o600, 1000, "mine\n");
    fs::hard_link(dir.join("etc/passwd"), dir.join("etc/passwd-")).unwrap();
    symlink("/etc/passwd", dir.join("etc/link")).unwrap();
    symlink("gone", dir.join("etc/dangling")).unwrap();
    fs::set_permissions(dir.join("var/tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    lchown(dir.join("home/user"), Some(1000), Some(1000)).unwrap();
    dir.to_owned()
}

/// What a container would do to these files.
fn change(root: &Path) {
    fs::remove_file(root.join("etc/gone")).unwrap();
    fs::remove_dir_all(root.join("var/cache")).unwrap();
    fs::create_dir(root.join("var/cache")).unwrap();
    fs::write(root.join("var/cache/fresh"), "fresh\n").unwrap();
    fs::remove_file(root.join("opt/file")).unwrap();
    fs::create_dir(root.join("opt/file")).unwrap();
    fs::write(root.join("opt/file/inside"), "inside\n").unwrap();
    fs::remove_dir_all(root.join("opt/program")).unwrap();
    symlink("file", root.join("opt/program")).unwrap();
    fs::set_permissions(root.join("etc/shadow"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// Layers that do to each other what is rarely done.
fn odd() -> Index {
    let lower = Tree::new()
        .dir("a")
        .file("a/one", 0o644, "one")
        .file("a/two", 0o644, "two")
        .dir("b")
        .dir("b/deep")
        .file("b/deep/file", 0o644, "deep")
        .file("c", 0o644, "file")
        .dir("d")
        .file("d/kept", 0o644, "kept")
        .hardlink("d/again", "a/one")
        .finish();
    let upper = Tree::new()
        // Deletes what is not there, what is, and a folder with all in it.
        .whiteout(".", "nothing")
        .dir("a")
        .whiteout("a", "one")
        .whiteout(".", "b")
        // Opaque after its entries.
        .dir("d")
        .file("d/new", 0o644, "new")
        .opaque("d")
        // A file becomes a folder.
        .whiteout(".", "c")
        .dir("e")
        .hardlink("e/two", "a/two")
        .finish();
    // What was deleted comes back.
    let top = Tree::new()
        .dir("b")
        .file("b/back", 0o644, "back")
        .dir("a")
        .file("a/one", 0o600, "another one")
        .finish();
    let layers = [
        (lower, Compression::Gzip),
        (upper, Compression::Zstd),
        (top, Compression::OneBlock),
    ];
    let recipe = Recipe::new(Arch::host());
    let recipe = layers
        .into_iter()
        .fold(recipe, |recipe, (tree, how)| recipe.layer(tree, how));
    Index::new(Format::Oci, vec![recipe.build()])
}

/// Eighty layers: each adds a file, and deletes the one before the last.
fn many() -> Index {
    let layer = |number: usize| {
        let tree = Tree::new()
            .dir("all")
            .file(&format!("all/{number}"), 0o644, number.to_string());
        match number.checked_sub(2) {
            Some(old) => tree.whiteout("all", &old.to_string()).finish(),
            None => tree.finish(),
        }
    };
    let recipe = Recipe::new(Arch::host());
    let recipe = (0..80).fold(recipe, |recipe, number| recipe.layer(layer(number), Compression::Gzip));
    Index::new(Format::Oci, vec![recipe.build()])
}

#[test]
fn images_of_every_maker_look_as_podman_unpacks_them() {
    let mut both = match Both::new() {
        Ok(both) => both,
        Err(reason) => skip!("{reason}"),
    };
    let source = files(&both.scratch.folder("files"));
    let place = |both: &Both, name: &str| both.scratch.join(name);

    for (name, index) in [("odd", odd()), ("many", many())] {
        let folder = both.scratch.folder(name);
        index.write_layout(&folder, TAG);
        both.compare(name, Transport::Oci, &folder);
    }

    // umoci: OCI, gzip, single entries as deletions.
    let layout = place(&both, "umoci");
    let image = format!("{}:{TAG}", layout.display());
    let umoci = |args: &[&str]| Cmd::new("umoci").args(args).ok();
    umoci(&["init", "--layout", layout.to_str().unwrap()]);
    umoci(&["new", "--image", &image]);
    let from = |name: &str| source.join(name).to_str().unwrap().to_owned();
    for (what, to) in [("etc", "/etc"), ("var", "/var"), ("opt", "/opt"), ("home", "/home")] {
        umoci(&["insert", "--image", &image, &from(what), to]);
    }
    umoci(&["insert", "--image", &image, "--whiteout", "/etc/gone"]);
    umoci(&[
        "insert",
        "--image",
        &image,
        "--opaque",
        &from("home/user"),
        "/var/cache",
    ]);
    both.compare("umoci", Transport::Oci, &layout);

    // skopeo: other compressions, and Docker's format.
    let layered = format!("oci:{}:{TAG}", place(&both, "odd").display());
    for how in ["gzip", "zstd", "zstd:chunked"] {
        let to = place(&both, &format!("skopeo-{}", how.replace(':', "-")));
        let copy = Cmd::new("skopeo").args(["copy", "-q", "--dest-compress-format", how, &layered]);
        copy.arg(format!("oci:{}:{TAG}", to.display())).ok();
        both.compare(&format!("skopeo {how}"), Transport::Oci, &to);
    }
    let to = place(&both, "skopeo-docker");
    let many = format!("oci:{}:{TAG}", place(&both, "many").display());
    let copy = Cmd::new("skopeo").args(["copy", "-q", "--format", "v2s2", &many]);
    copy.arg(format!("dir:{}", to.display())).ok();
    both.compare("skopeo Docker", Transport::Dir, &to);

    // buildah: a container that is changed and committed, in both formats.
    let base = both.peer("buildah").args(["from", "scratch"]).ok().trim().to_owned();
    let root = both.peer("buildah").args(["mount", &base]).ok().trim().to_owned();
    Cmd::new("cp").args(["-a"]).arg(source.join(".")).arg(&root).ok();
    both.peer("buildah").args(["commit", "-q", &base, "one"]).ok();
    let next = both
        .peer("buildah")
        .args(["from", "localhost/one"])
        .ok()
        .trim()
        .to_owned();
    let root = both.peer("buildah").args(["mount", &next]).ok().trim().to_owned();
    change(Path::new(&root));
    for (format, transport) in [("oci", Transport::Oci), ("docker", Transport::Dir)] {
        let to = place(&both, &format!("buildah-{format}"));
        let target = match transport {
            Transport::Dir => format!("dir:{}", to.display()),
            _ => format!("oci:{}:{TAG}", to.display()),
        };
        let commit = both
            .peer("buildah")
            .args(["commit", "-q", "--format", format, &next, &target]);
        commit.ok();
        both.compare(&format!("buildah {format}"), transport, &to);
    }
    for container in [&base, &next] {
        both.peer("buildah").args(["rm", container]).run();
    }

    // podman: what came with `import`, changed and committed.
    let archive = place(&both, "files.tar");
    Cmd::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&source)
        .arg(".")
        .ok();
    both.peer("podman")
        .args(["import", "-q"])
        .arg(&archive)
        .arg("localhost/two")
        .ok();
    let made = both
        .peer("podman")
        .args(["create", "localhost/two", "true"])
        .ok()
        .trim()
        .to_owned();
    let root = both.peer("podman").args(["mount", &made]).ok().trim().to_owned();
    change(Path::new(&root));
    both.peer("podman").args(["umount", &made]).ok();
    for format in ["oci", "docker"] {
        both.peer("podman")
            .args(["commit", "-q", "--format", format, &made, "localhost/three"])
            .ok();
        let (to, transport, target) = match format {
            "oci" => (place(&both, "podman-oci"), Transport::Oci, "oci"),
            _ => (place(&both, "podman-docker"), Transport::Dir, "dir"),
        };
        let tag = if target == "oci" {
            format!(":{TAG}")
        } else {
            String::new()
        };
        let push = both.peer("podman").args(["push", "-q", "localhost/three"]);
        push.arg(format!("{target}:{}{tag}", to.display())).ok();
        both.compare(&format!("podman {format}"), transport, &to);
    }
    both.peer("podman").args(["rm", "-f", &made]).run();
    assert_eq!(both.all.len(), 11, "{:?}", both.all.keys());
}
