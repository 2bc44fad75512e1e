//! Images leave and enter the store unchanged, and others read them.

use super::{Who, World};
use crate::fixture::arch::Arch;
use crate::fixture::cmd::Cmd;
use crate::fixture::images::{Compression, Format, Index, pack};
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::skip;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// busybox with layers that hide and replace.
fn index() -> Index {
    let lower = Tree::new()
        .dir("srv")
        .dir("srv/old")
        .file("srv/old/a", 0o644, "old")
        .file("srv/gone", 0o644, "gone")
        .owned_file("srv/owned", 0o640, 1000, "mine")
        .finish();
    let upper = Tree::new()
        .whiteout("srv", "gone")
        .dir("srv/old")
        .opaque("srv/old")
        .file("srv/new", 0o755, "replaced")
        .hardlink("srv/again", "srv/new")
        .finish();
    Index::each(Format::Oci, |recipe| {
        recipe
            .layer(lower.clone(), Compression::Gzip)
            .layer(upper.clone(), Compression::Gzip)
    })
}

struct Scene {
    world: World,
    id: String,
    /// Who owns the store may write here.
    folder: PathBuf,
}

const NAME: &str = "reg.example/team/web:1";

impl Scene {
    fn new(who: Who) -> Result<Scene, String> {
        let world = World::with(who, index())?;
        let id = world.image.clone();
        assert_eq!(id, index().image(Arch::host()).id().trim_start_matches("sha256:"));
        world.cmd("tag").arg(&id).arg(NAME).ok();
        world.cmd("untag").arg(&id).arg(first_name(&world)).ok();
        let folder = world.folder("out");
        Ok(Scene { world, id, folder })
    }

    /// Saves in all formats; gives them as others call them.
    fn save(&self) -> Vec<(String, PathBuf)> {
        let formats = [
            ("docker-archive", "docker-archive"),
            ("oci-archive", "oci-archive"),
            ("oci-dir", "oci"),
            ("docker-dir", "dir"),
        ];
        let save = |(format, transport): (&str, &str)| {
            let path = self.folder.join(format);
            let save = self.world.cmd("save -q --format").arg(format);
            assert_eq!(save.arg("-o").arg(&path).arg(NAME).ok(), "");
            (format!("{transport}:{}", path.display()), path)
        };
        formats.into_iter().map(save).collect()
    }

    /// Without the image, as it was before.
    fn forget(&self) {
        self.world.cmd("rmi -f").arg(&self.id).ok();
        let layers = super::names(&self.world.roots().0.join("layers"));
        assert_eq!(layers, ["l"], "nothing is left");
    }

    fn assert_here(&self, label: &str, names: &[&str]) {
        let found = self.world.cmd("image inspect").arg(&self.id).ok();
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found[0]["Id"], self.id, "{label}");
        assert_eq!(found[0]["RepoTags"], serde_json::json!(names), "{label}");
    }
}

fn first_name(world: &World) -> String {
    world
        .cmd("images --format {{.Repository}}:{{.Tag}}")
        .ok()
        .lines()
        .next()
        .unwrap()
        .to_owned()
}

fn podman(scratch: &Scratch) -> Cmd {
    let podman = Cmd::new("podman").arg("--root").arg(scratch.join("podman"));
    let podman = podman
        .arg("--runroot")
        .arg(scratch.join("run"))
        .args(["--storage-driver", "vfs"]);
    podman.env("HOME", scratch.path())
}

#[test]
fn sizes_are_those_that_podman_tells() {
    let scene = match Scene::new(Who::Root) {
        Ok(scene) => scene,
        Err(reason) => skip!("{reason}"),
    };
    let scratch = Scratch::new("sizes");
    let path = scene.folder.join("archive");
    let save = scene.world.cmd("save -q --format docker-archive -o");
    save.arg(&path).arg(NAME).ok();
    let loaded = podman(&scratch).args(["load", "-i"]).arg(path).run();
    if loaded.code != 0 {
        skip!("podman cannot load here: {}", loaded.stderr);
    }
    let words = ["history", "--format", "{{.Size}}", &scene.id];
    let theirs = podman(&scratch).args(words).ok();
    assert_eq!(scene.world.cmd("").args(words).ok(), theirs);
    assert_eq!(theirs.lines().count(), 3, "{theirs}");
    let words = ["image", "inspect", "--format", "{{.Size}}", &scene.id];
    let (ours, theirs) = (scene.world.cmd("").args(words).ok(), podman(&scratch).args(words).ok());
    // podman counts notes of its own beside the layers.
    let (ours, theirs): (u64, u64) = (ours.parse().unwrap(), theirs.parse().unwrap());
    assert!(ours.abs_diff(theirs) < 4096, "{ours} {theirs}");
}

/// The id that skopeo sees.
fn skopeo_id(place: &str) -> String {
    let config = Cmd::new("skopeo")
        .args(["inspect", "--config", "--raw", place])
        .run()
        .expect(0);
    let digest = crate::fixture::images::digest(config.stdout.as_bytes());
    digest.trim_start_matches("sha256:").to_owned()
}

#[test]
fn what_is_saved_is_read_by_skopeo_and_podman_with_the_same_id() {
    for who in [Who::Ranges, Who::Root] {
        let scene = match Scene::new(who) {
            Ok(scene) => scene,
            Err(reason) => skip!("{reason}"),
        };
        let saved = scene.save();
        let scratch = Scratch::new("others");
        for (place, path) in &saved {
            assert_eq!(skopeo_id(place), scene.id, "{who:?}: {place}");
            // Every digest is checked on the way.
            let copy = scratch.folder("copy");
            Cmd::new("skopeo")
                .args(["copy", place])
                .arg(format!("dir:{}", copy.display()))
                .run()
                .expect(0);
            let loaded = podman(&scratch).args(["load", "-i"]).arg(path).run();
            if loaded.code != 0 {
                skip!("podman cannot load here: {}", loaded.stderr);
            }
            // podman calls what is in a directory by the directory.
            if path.is_file() {
                assert!(loaded.stdout.contains(NAME), "{place}: {}", loaded.stdout);
            }
            let here = podman(&scratch).args(["images", "-q", "--no-trunc"]).ok();
            assert_eq!(here, format!("sha256:{}", scene.id), "{who:?}: {place}");
            podman(&scratch).args(["rmi", "-f", &scene.id]).ok();
            fs::remove_dir_all(copy).unwrap();
        }
        // The same again is the same, byte for byte, also through a pipe, where nothing can be completed later.
        for format in ["docker-archive", "oci-archive"] {
            let again = scene.world.cmd("save --format").arg(format).arg(NAME);
            let piped = scene.folder.join("piped");
            let script = again.into_command();
            let out = fs::File::create(&piped).unwrap();
            let mut cat = std::process::Command::new("cat")
                .stdin(std::process::Stdio::piped())
                .stdout(out)
                .spawn()
                .unwrap();
            let mut script = script;
            let status = script.stdout(cat.stdin.take().unwrap()).status().unwrap();
            drop(script);
            assert!(status.success() && cat.wait().unwrap().success());
            let (file, piped) = (fs::read(scene.folder.join(format)).unwrap(), fs::read(&piped).unwrap());
            assert!(members(&file) == members(&piped), "{who:?}: {format}");
        }
    }
}

/// Names, lengths and digests of an archive's files, in any order.
fn members(archive: &[u8]) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(archive);
    let member = |entry: std::io::Result<tar::Entry<&[u8]>>| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        let name = entry.path().unwrap().display().to_string();
        (name, crate::fixture::images::digest(&bytes))
    };
    archive.entries().unwrap().map(member).collect()
}

#[test]
fn what_is_saved_is_loaded_and_pulled_with_the_same_id() {
    for who in super::EVERYBODY {
        let mut index = index();
        if who == Who::Single {
            // No layer with other owners.
            index = Index::busybox(Format::Oci);
        }
        let world = match World::with(who, index) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let id = world.image.clone();
        world.cmd("tag").arg(&id).arg(NAME).ok();
        world.cmd("untag").arg(&id).arg(first_name(&world)).ok();
        let folder = world.folder("out");
        let scene = Scene { world, id, folder };
        let saved = scene.save();
        for (place, path) in &saved {
            scene.forget();
            let loaded = scene.world.cmd("load -q -i").arg(path).ok();
            let (says, names): (String, &[&str]) = match place.starts_with("dir:") {
                true => (format!("Loaded image: sha256:{}", scene.id), &[]),
                false => (format!("Loaded image: {NAME}"), &[NAME]),
            };
            assert_eq!(loaded, says, "{who:?}: {place}");
            scene.assert_here(place, names);
            scene.forget();
            assert_eq!(scene.world.cmd("pull -q").arg(place).ok(), scene.id, "{who:?}");
            scene.assert_here(place, &[&*first_name(&scene.world)]);
            if who != Who::Single {
                let script = "cat /srv/new /srv/again; ls /srv/old; ls /srv/gone 2>&1; stat -c %u /srv/owned";
                let ran = scene.world.sh("run --rm", script).ok();
                let want = "replacedreplacedls: /srv/gone: No such file or directory\n1000";
                assert_eq!(ran, want, "{who:?}: {place}");
            }
        }
        // Through a pipe, and compressed.
        let archive = fs::read(scene.folder.join("docker-archive")).unwrap();
        scene.forget();
        scene.world.cmd("load -q").stdin(archive.clone()).ok();
        scene.assert_here("pipe", &[NAME]);
        scene.forget();
        let packed = pack(&archive, Compression::Gzip, false);
        scene.world.cmd("load -q").stdin(packed.bytes).ok();
        scene.assert_here("compressed", &[NAME]);
        assert_eq!(super::names(&scene.world.roots().0.join("tmp")), Vec::<String>::new());
        scene.world.cmd("system check").ok();
    }
}

/// Every format that skopeo and podman write.
fn theirs(scratch: &Scratch, layout: &Path) -> Vec<String> {
    let at = |name: &str| scratch.join(name).display().to_string();
    let from = format!("oci:{}:latest", layout.display());
    let mut all = Vec::new();
    for to in [
        format!("docker-archive:{}:{NAME}", at("s-docker")),
        format!("oci-archive:{}:{NAME}", at("s-oci")),
        format!("oci:{}:{NAME}", at("s-ocidir")),
        format!("dir:{}", at("s-dir")),
    ] {
        Cmd::new("skopeo").args(["copy", &from, &to]).run().expect(0);
        all.push(to);
    }
    let pulled = podman(scratch).args(["pull", "-q", &from]).run();
    if pulled.code == 0 {
        podman(scratch).args(["tag", pulled.stdout.trim(), NAME]).ok();
        for (format, transport) in [
            ("docker-archive", "docker-archive"),
            ("oci-archive", "oci-archive"),
            ("oci-dir", "oci"),
            ("docker-dir", "dir"),
        ] {
            let path = at(&format!("p-{format}"));
            podman(scratch)
                .args(["save", "-q", "--format", format, "-o", &path, NAME])
                .ok();
            all.push(format!("{transport}:{path}"));
        }
    } else {
        crate::fixture::skip::note(format!("podman cannot pull here: {}", pulled.stderr));
    }
    all
}

#[test]
fn what_skopeo_and_podman_save_is_loaded_with_the_same_id() {
    let scene = match Scene::new(Who::Ranges) {
        Ok(scene) => scene,
        Err(reason) => skip!("{reason}"),
    };
    let scratch = Scratch::new("theirs");
    crate::fixture::workers::open_to_all(scratch.path());
    let layout = scratch.folder("layout");
    index().write_layout(&layout, "latest");
    for place in theirs(&scratch, &layout) {
        Cmd::new("chmod").args(["-R", "a+rX"]).arg(scratch.path()).ok();
        scene.forget();
        assert_eq!(scene.world.cmd("pull -q").arg(&place).ok(), scene.id, "{place}");
        scene.forget();
        let path = place.split(':').nth(1).unwrap();
        let loaded = scene.world.cmd("load -q -i").arg(path).ok();
        let names: &[&str] = if place.starts_with("dir:") { &[] } else { &[NAME] };
        assert!(place.starts_with("dir:") || loaded.contains(NAME), "{place}: {loaded}");
        scene.assert_here(&place, names);
        scene.world.cmd("system check").ok();
    }
}

#[test]
fn several_images_and_names_go_into_one_archive() {
    let scene = match Scene::new(Who::Root) {
        Ok(scene) => scene,
        Err(reason) => skip!("{reason}"),
    };
    let other = Scratch::new("second");
    Index::busybox(Format::Docker).write_layout(other.path(), "latest");
    let second = scene
        .world
        .cmd("pull -q")
        .arg(format!("oci:{}:latest", other.path().display()))
        .ok();
    scene.world.cmd("tag").arg(&second).args(["localhost/two:2"]).ok();
    let archive = scene.folder.join("both");
    let save = |words: &str| scene.world.cmd(words).arg("-o").arg(&archive);
    save("save -q -m").args([NAME, "localhost/two:2"]).ok();
    scene.forget_all(&second);
    let loaded = scene.world.cmd("load -q -i").arg(&archive).ok();
    assert_eq!(loaded, format!("Loaded image: {NAME}\nLoaded image: localhost/two:2"));
    // More names of one image.
    save("save -q").args([NAME, "also:3"]).ok();
    scene.forget_all(&second);
    let loaded = scene.world.cmd("load -q -i").arg(&archive).ok();
    assert_eq!(loaded, format!("Loaded image: localhost/also:3\nLoaded image: {NAME}"));
    // By its id it has no name there.
    save("save -q").arg(&scene.id).ok();
    scene.forget();
    let loaded = scene.world.cmd("load -q -i").arg(&archive).ok();
    assert_eq!(loaded, format!("Loaded image: sha256:{}", scene.id));
    for (words, says) in [
        ("save --format x -o /tmp/x busybox", "unknown format `x`"),
        ("save --format oci-dir busybox", "name a directory with -o"),
        (
            "save -m --format oci-archive -o /tmp/x busybox",
            "--multi-image-archive",
        ),
        ("save -o /nowhere/x busybox", "/nowhere/x"),
        ("save -q nothing", "nothing"),
        ("load -i /nowhere/x", "/nowhere/x"),
        ("load -q -i /etc", "does not match any of the supported image formats"),
        ("load -q -i /etc/passwd", "/etc/passwd"),
        ("pull docker-daemon:x", "is not supported"),
    ] {
        scene.world.cmd(words).fails(125).says(&[says]);
    }
}

impl Scene {
    fn forget_all(&self, second: &str) {
        self.world.cmd("rmi -f").arg(second).ok();
        self.forget();
    }
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let (data, _) = world.roots();
    let before = super::names(&data.join("layers")).len();
    let layer = Tree::new().file("x", 0o644, "x").finish();
    let diff = crate::fixture::images::digest(&layer);
    let config = |diffs: &[&str]| {
        let rootfs = serde_json::json!({"type": "layers", "diff_ids": diffs});
        serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).to_string()
    };
    let listed =
        |layers: &[&str]| serde_json::json!([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": layers}]).to_string();
    let archive = |layers: &[&str], diffs: &[&str]| {
        Tree::new()
            .file("l.tar", 0o644, &layer)
            .file("c.json", 0o644, config(diffs))
            .file("manifest.json", 0o644, listed(layers))
            .symlink("loop", "loop")
            .symlink("out", "../../../../etc/passwd")
    };
    let zeros = format!("sha256:{}", "0".repeat(64));
    let good = archive(&["l.tar"], &[&diff]).finish();
    let mut lying = good.clone();
    // The length of the first member.
    lying[124..135].copy_from_slice(b"77777777777");
    let sum: u32 = lying[..512]
        .iter()
        .enumerate()
        .map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) })
        .sum();
    lying[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let many = (0..17_000)
        .fold(Tree::new(), |tree, n| tree.file(&format!("f{n}"), 0o644, ""))
        .finish();
    let bomb = pack(&vec![0; 300 << 20], Compression::Zstd, false).bytes;
    let table: [(&str, Vec<u8>, &str); 10] = [
        (
            "other layer",
            archive(&["l.tar"], &[&zeros]).finish(),
            "compressed bytes have the digest",
        ),
        (
            "missing layer",
            archive(&["m.tar"], &[&diff]).finish(),
            "has no file `m.tar`",
        ),
        (
            "number of layers",
            archive(&["l.tar", "l.tar"], &[&diff]).finish(),
            "lists 1 layers, the archive 2",
        ),
        ("a loop", archive(&["loop"], &[&diff]).finish(), "has no file `loop`"),
        ("outside", archive(&["out"], &[&diff]).finish(), "has no file `out`"),
        (
            "outside by name",
            archive(&["../../etc/passwd"], &[&diff]).finish(),
            "has no file",
        ),
        ("a length beyond the end", lying, "ends at byte"),
        ("cut off", good[..1600].to_vec(), "ends at byte 1600"),
        ("many members", many, "more than 16384 members"),
        ("a bomb", bomb, "expands to more"),
    ];
    for (label, bytes, says) in table {
        let failed = world.cmd("load -q").stdin(bytes).run();
        assert_eq!(failed.code, 125, "{label}: {}", failed.stderr);
        assert!(failed.stderr.contains(says), "{label}: {}", failed.stderr);
        assert_eq!(super::names(&data.join("tmp")), Vec::<String>::new(), "{label}");
        assert_eq!(super::names(&data.join("layers")).len(), before, "{label}");
    }
    let loaded = world.cmd("load -q").stdin(good).ok();
    assert_eq!(loaded, "Loaded image: docker.io/library/a:1");
}

#[test]
fn what_buildah_makes_goes_through_unchanged() {
    let scene = match Scene::new(Who::Root) {
        Ok(scene) => scene,
        Err(reason) => skip!("{reason}"),
    };
    let scratch = Scratch::new("buildah");
    let buildah = |words: &[&str]| {
        let base = Cmd::new("buildah").arg("--root").arg(scratch.join("root"));
        let base = base
            .arg("--runroot")
            .arg(scratch.join("run"))
            .args(["--storage-driver", "vfs"]);
        base.env("HOME", scratch.path()).args(words)
    };
    if Cmd::new("which").arg("buildah").run().code != 0 {
        skip!("buildah is not installed");
    }
    let from = scratch.folder("from");
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("a/b/file"), vec![3; 100_000]).unwrap();
    fs::hard_link(from.join("a/b/file"), from.join("a/link")).unwrap();
    fs::write(from.join("a-rather-long-name-".repeat(12)), "long").unwrap();
    std::os::unix::fs::symlink("a/b", from.join("soft")).unwrap();
    let begun = buildah(&["from", "scratch"]).run();
    if begun.code != 0 {
        skip!("buildah cannot work here: {}", begun.stderr);
    }
    let container = begun.stdout.trim().to_owned();
    buildah(&["copy", &container, from.to_str().unwrap(), "/"]).ok();
    buildah(&["config", "--cmd", "/a", "--label", "x=y", &container]).ok();
    for (format, transport) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
        let path = scratch.join(transport);
        let place = format!("{transport}:{}:{NAME}", path.display());
        buildah(&["commit", "-q", "--format", format, &container, &place]).ok();
        let id = skopeo_id(&format!("{transport}:{}", path.display()));
        assert_eq!(scene.world.cmd("pull -q").arg(&place).ok(), id, "{transport}");
        let saved = scene.folder.join("saved");
        scene
            .world
            .cmd("save -q --format docker-archive -o")
            .arg(&saved)
            .arg(&id)
            .ok();
        assert_eq!(
            skopeo_id(&format!("docker-archive:{}", saved.display())),
            id,
            "{transport}"
        );
        // The very archives: they are called by their diff ids.
        let mut ours: Vec<String> = members(&fs::read(&saved).unwrap())
            .into_iter()
            .map(|(name, digest)| format!("{name} {digest}"))
            .collect();
        ours.retain(|line| line.contains(".tar "));
        assert!(!ours.is_empty());
        for line in ours {
            let (name, digest) = line.split_once(".tar ").unwrap();
            assert_eq!(format!("sha256:{name}"), digest);
        }
        scene.world.cmd("rmi -f").arg(&id).ok();
        scene.world.cmd("system check").ok();
    }
    buildah(&["rm", &container]).ok();
}
