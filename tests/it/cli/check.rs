//! `system check`: what is broken is found where it is, and only that is fetched again.

use super::{Who, World, names};
use crate::check::flip;
use crate::fixture::arch::Arch;
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::tree::Tree;
use crate::skip;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A store with an image of three layers from a registry, called `name`.
struct Scene {
    world: World,
    registry: Registry,
    index: Index,
    name: String,
}

impl Scene {
    fn new(who: Who) -> Result<Scene, String> {
        let world = World::new(who)?;
        let registry = Registry::plain();
        let tar = |file: &str| {
            let tree = Tree::new().dir("srv").file(file, 0o640, format!("content of {file}"));
            tree.owned_file(&format!("{file}.owned"), 0o600, 1000, "x").finish()
        };
        let index = Index::each(Format::Oci, |recipe| {
            recipe
                .layer(tar("srv/a"), Compression::Gzip)
                .layer(tar("srv/b"), Compression::Zstd)
        });
        registry.push("check", "1", &index);
        let name = format!("{}:1", registry.reference("check"));
        world.cmd("pull -q").arg(&name).ok();
        Ok(Scene {
            world,
            registry,
            index,
            name,
        })
    }

    fn data(&self) -> PathBuf {
        self.world.roots().0
    }

    /// The layer that has this file.
    fn layer_with(&self, file: &str) -> PathBuf {
        let layers = self.data().join("layers");
        let all = names(&layers).into_iter().filter(|name| name != "l");
        let mut all = all.map(|name| layers.join(name));
        all.find(|layer| layer.join("diff").join(file).exists()).unwrap()
    }

    /// How often each layer was fetched, lowest first.
    fn fetches(&self) -> Vec<usize> {
        let image = self.index.image(Arch::host());
        let count = |digest: String| self.registry.requests("GET", &format!("/blobs/{digest}"));
        image.layers.iter().map(|blob| count(blob.digest())).collect()
    }

    fn assert_clean(&self) {
        self.world.cmd("system check").run().expect(0).says(&[" 0 wrong"]);
    }
}

#[test]
fn a_broken_layer_is_found_set_aside_and_only_it_is_fetched_again() {
    for who in [Who::Ranges, Who::Root] {
        let mut scene = match Scene::new(who) {
            Ok(scene) => scene,
            Err(reason) => skip!("{reason}"),
        };
        scene.assert_clean();
        let before = scene.fetches();
        scene
            .world
            .cmd("run -d --name up")
            .arg(&scene.name)
            .args(["sleep", "1000"])
            .ok();
        let layer = scene.layer_with("srv/a");
        flip(&layer.join("diff/srv/a"));
        let key = layer.file_name().unwrap().to_str().unwrap().to_owned();
        scene.world.cmd("system check --quick").ok();
        let found = scene.world.cmd("system check").fails(1);
        assert_eq!(
            found.stdout,
            format!("layer sha256:{key}: `/srv/a` has other content\n"),
            "{who:?}"
        );
        fs::set_permissions(layer.join("diff/srv"), fs::Permissions::from_mode(0o711)).unwrap();
        fs::write(layer.join("diff/srv/extra"), "x").unwrap();
        let found = scene.world.cmd("system check --quick").fails(1).stdout;
        assert_eq!(found.lines().count(), 2, "{found}");
        let mended = scene.world.cmd("system check --repair").run().expect(0).stdout;
        assert_eq!(mended.matches("(repaired)").count(), 3, "{mended}");
        let after = scene.fetches();
        let more: Vec<usize> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after - before)
            .collect();
        assert_eq!(more, [0, 1, 0], "{who:?}: only the broken layer is fetched");
        scene.assert_clean();
        // Who runs keeps what it has; who starts anew gets what is right.
        assert_eq!(names(&scene.data().join("quarantine")).len(), 1);
        assert_eq!(scene.world.cmd("exec up ls /srv/extra").ok(), "/srv/extra");
        let fresh = scene.world.cmd("run --rm").arg(&scene.name);
        assert_eq!(
            fresh.args(["sh", "-c", "cat /srv/a; ls /srv | wc -l"]).ok(),
            "content of srv/a4"
        );
        scene.world.cmd("rm -f -t 0 up").ok();
        scene.world.cmd("system check --repair --quick").ok();
        assert!(names(&scene.data().join("quarantine")).is_empty(), "{who:?}");
        // Without its registry an image cannot be mended, and it is said what to do.
        flip(&scene.layer_with("srv/b").join("diff/srv/b"));
        scene.registry.stop();
        let repair = scene.world.cmd("system check --repair").fails(1);
        repair.says(&["cannot be repaired", &format!("dunlin pull {}", scene.name)]);
        let refused = scene.world.cmd("run --rm --pull never").arg(&scene.name).arg("true");
        refused.fails(125).says(&["pull the image again"]);
        scene.registry.start();
        scene.world.cmd("pull -q").arg(&scene.name).ok();
        scene.assert_clean();
    }
}

#[test]
fn damaged_records_and_leftovers_are_named_and_mended() {
    let scene = match Scene::new(Who::Ranges) {
        Ok(scene) => scene,
        Err(reason) => skip!("{reason}"),
    };
    let world = &scene.world;
    let data = scene.data();
    let id = world.cmd("images -q --no-trunc").arg(&scene.name).ok();
    let id = id.trim_start_matches("sha256:").to_owned();
    let layer = || scene.layer_with("srv/a");
    let user = world.user().unwrap();
    let stray = |path: PathBuf, text: &str| {
        fs::write(&path, text).unwrap();
        user.give(&path);
    };
    let unused = "0".repeat(64);
    type Harm<'a> = Box<dyn Fn() + 'a>;
    let table: Vec<(&str, Harm, &str)> = vec![
        (
            "image record",
            Box::new(|| flip(&data.join("images").join(&id))),
            "checksum does not fit",
        ),
        (
            "blob",
            Box::new(|| flip(&data.join("blobs/sha256").join(&id))),
            "its configuration: blob",
        ),
        (
            "blob gone",
            Box::new(|| fs::remove_file(data.join("blobs/sha256").join(&id)).unwrap()),
            "its configuration",
        ),
        (
            "image gone",
            Box::new(|| fs::remove_file(data.join("images").join(&id)).unwrap()),
            "is missing",
        ),
        (
            "layer record",
            Box::new(|| flip(&layer().join("record"))),
            "checksum does not fit",
        ),
        (
            "layer record gone",
            Box::new(|| fs::remove_file(layer().join("record")).unwrap()),
            "its record is missing",
        ),
        (
            "sums",
            Box::new(|| flip(&layer().join("sums"))),
            "the record of its files is damaged",
        ),
        (
            "layer gone",
            Box::new(|| fs::remove_dir_all(layer()).unwrap()),
            "is missing",
        ),
        (
            "link gone",
            Box::new(|| {
                let key = layer().file_name().unwrap().to_str().unwrap().to_owned();
                fs::remove_file(data.join("layers/l").join(&key[..8])).unwrap();
            }),
            "its short link is missing or wrong",
        ),
        (
            "unused blob",
            Box::new(|| stray(data.join("blobs/sha256").join(&unused), "x")),
            "no image has it",
        ),
        (
            "cut off write",
            Box::new(|| stray(data.join("images/.x.1.0.tmp"), "x")),
            "a write that was cut off",
        ),
        (
            "dead process",
            Box::new(|| {
                fs::create_dir_all(data.join("tmp/s1-x/0/diff")).unwrap();
                fs::create_dir(data.join("tmp/s1-x/0/diff/d")).unwrap();
                for part in ["tmp/s1-x", "tmp/s1-x/0", "tmp/s1-x/0/diff", "tmp/s1-x/0/diff/d"] {
                    user.give(&data.join(part));
                }
            }),
            "a process that died",
        ),
    ];
    scene.assert_clean();
    for (label, harm, what) in &table {
        harm();
        let found = world.cmd("system check --quick").fails(1).stdout;
        assert!(found.contains(what), "{label}: {found}");
        let mended = world.cmd("system check --repair").run();
        assert_eq!(mended.code, 0, "{label}: {}{}", mended.stdout, mended.stderr);
        scene.assert_clean();
        assert_eq!(
            world.cmd("run --rm").arg(&scene.name).args(["cat", "/srv/a"]).ok(),
            "content of srv/a",
            "{label}"
        );
    }
    // A name's record says nothing any more once it is damaged: the name goes, the image stays.
    for file in names(&data.join("refs")) {
        flip(&data.join("refs").join(file));
    }
    world.cmd("system check --repair").ok();
    assert!(names(&data.join("refs")).is_empty());
    assert_eq!(world.cmd("images -q").ok().lines().count(), 2);
    // A layer of an older store: usable, and said to be not checkable.
    fs::remove_file(layer().join("sums")).unwrap();
    world
        .cmd("system check")
        .run()
        .expect(0)
        .says(&["is not checkable", "1 layers not checkable"]);
}
