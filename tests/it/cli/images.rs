//! What is done with images that are here: names, history, layers, what is pruned.

use super::{EVERYBODY, Who, World, names};
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::skip;
use dunlin::disk::layout::Layout;
use dunlin::store::Store;
use serde_json::Value;

/// busybox with one more layer that holds this file, in the world's store without a name; gives its id.
fn above(world: &World, file: &str) -> String {
    let tar = Tree::new().owned_file(file, 0o644, 0, "content").finish();
    let index = Index::each(Format::Oci, |recipe| {
        recipe
            .layer(tar.clone(), Compression::Gzip)
            .config("Labels", serde_json::json!({"kind": file}))
    });
    let layout = Scratch::new("above");
    index.write_layout(layout.path(), "latest");
    let id = world
        .cmd("pull -q")
        .arg(format!("oci:{}:latest", layout.path().display()))
        .ok();
    world.cmd("untag").arg(&id).ok();
    id
}

fn tags(world: &World) -> String {
    let list = world
        .cmd("images --sort repository --format {{.Repository}}:{{.Tag}}")
        .ok();
    list.replace('\n', " ")
}

#[test]
fn names_are_given_and_taken_as_podman_does() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let id = world.image.clone();
    world.cmd("untag").arg(&id).ok();
    assert_eq!(tags(&world), "<none>:<none>");
    world
        .cmd("tag")
        .arg(&id)
        .args(["web", "reg.example/web:1", "docker.io/web"])
        .ok();
    assert_eq!(
        tags(&world),
        "docker.io/library/web:latest localhost/web:latest reg.example/web:1"
    );
    world.cmd("tag reg.example/web:1 other:2").ok();
    assert_eq!(world.cmd("image inspect --format {{.Id}} other:2").ok(), id);

    // A name goes to another image; the one that had it keeps its others.
    let second = above(&world, "two");
    world.cmd("tag").arg(&second).arg("other:2").ok();
    assert_eq!(world.cmd("image inspect --format {{.Id}} other:2").ok(), second);

    world
        .cmd("untag reg.example/web:1 nope")
        .fails(125)
        .says(&["localhost/nope:latest: tag not known"]);
    world
        .cmd("untag reg.example/web:1 other:2")
        .fails(125)
        .says(&["localhost/other:2: tag not known"]);
    world.cmd("untag reg.example/web:1 localhost/web").ok();
    assert_eq!(
        tags(&world),
        "docker.io/library/web:latest localhost/other:2 reg.example/web:1"
    );
    world.cmd("image untag reg.example/web:1").ok();
    assert_eq!(
        world.cmd("images -q --no-trunc --filter dangling=true").ok(),
        format!("sha256:{id}")
    );

    for (words, says) in [
        ("tag nope x", "nope"),
        ("tag other:2", "NAME"),
        ("tag other:2 Big", "`Big`"),
        ("tag other:2 good Big", "`Big`"),
        ("untag nope", "nope"),
    ] {
        world.cmd(words).fails(125).says(&[says]);
    }
    let pinned = format!("x@sha256:{id}");
    world.cmd("tag other:2").arg(pinned).fails(125).says(&["NAME:TAG"]);
    assert!(!tags(&world).contains("good"), "all or nothing");

    for (name, code) in [
        ("other:2", 0),
        ("other", 1),
        (&second[..12], 0),
        ("nope.example/x:1", 1),
    ] {
        let out = world.cmd("image exists").arg(name).run().expect(code);
        assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("", ""), "{name}");
    }
}

#[test]
fn history_and_tree_show_how_images_stand_on_each_other() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let upper = above(&world, "two");
    world.cmd("untag").arg(&world.image).ok();
    world.cmd("tag").arg(&world.image).arg("base").ok();
    world.cmd("tag").arg(&upper).arg("upper").ok();

    let text = world.cmd("history upper").ok();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[0],
        ["ID", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"],
        "{text}"
    );
    // Header, content and end of the archive.
    assert_eq!(lines[1], [&upper[..12], "a", "test", "2.05", "kB"], "{text}");
    assert_eq!(lines[2][..3], ["<missing>", "a", "test"], "{text}");
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(
        world.cmd("history -q --no-trunc upper").ok(),
        format!("{upper}\n<missing>")
    );
    assert_eq!(
        world
            .cmd("image history --human=false --format {{.Size}}|{{.Tags}} upper")
            .ok()
            .lines()
            .next(),
        Some("2048|[localhost/upper:latest]")
    );
    let json: Value = serde_json::from_str(&world.cmd("history --format json upper").ok()).unwrap();
    assert_eq!(
        (&json[0]["id"], &json[1]["id"]),
        (&upper.as_str().into(), &"<missing>".into())
    );
    assert_eq!(json[0]["size"], 2048);
    world.cmd("history nope").fails(125).says(&["nope"]);

    let layers = |image: &str| -> Vec<String> {
        let text = world
            .cmd("image inspect --format")
            .arg("{{join .RootFS.Layers \" \"}}")
            .arg(image)
            .ok();
        text.split(' ')
            .map(|layer| layer.trim_start_matches("sha256:")[..12].to_owned())
            .collect()
    };
    let [low, high] = &layers("upper")[..] else {
        panic!("two layers")
    };
    let text = world.cmd("image tree upper").ok();
    let size = world.cmd("image inspect --format {{.Size}} upper").ok();
    assert!(size.parse::<u64>().unwrap() > 4096);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("Image ID: {}", &upper[..12]));
    assert_eq!(lines[1], "Tags:     [localhost/upper:latest]");
    assert_eq!(lines[3], "Image Layers");
    assert!(
        lines[4].starts_with(&format!("├── ID: {low} Size: "))
            && lines[4].ends_with(" Top Layer of: [localhost/base:latest]"),
        "{text}"
    );
    assert_eq!(
        lines[5],
        format!("└── ID: {high} Size: 2.048kB Top Layer of: [localhost/upper:latest]")
    );
    let text = world.cmd("image tree --whatrequires base").ok();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[4].starts_with(&format!("└── ID: {low} Size: ")), "{text}");
    assert!(lines[5].starts_with(&format!("    └── ID: {high} Size: ")), "{text}");
    assert_eq!(lines.len(), 6, "{text}");
}

#[test]
fn prune_asks_and_takes_only_what_nothing_needs() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let (data, _) = world.roots();
        world.cmd("untag").arg(&world.image).ok();
        let named = above(&world, "named");
        world.cmd("tag").arg(&named).arg("named").ok();
        let loose = above(&world, "loose");
        let count = || world.cmd("images -q").ok().lines().count();

        // Everything but a yes is a no.
        for answer in ["", "n\n", "\n"] {
            let out = world.cmd("image prune -a").stdin(answer).run().expect(0);
            assert!(
                out.stderr.contains("all images without at least one container"),
                "{who:?}: {}",
                out.stderr
            );
            assert_eq!((out.stdout.as_str(), count()), ("", 3), "{who:?} {answer:?}");
        }
        // A container keeps the image that it was made from.
        world.sh("create --name box", "true").ok();
        let out = world.cmd("image prune").stdin("y\n").run().expect(0);
        assert!(out.stderr.contains("all dangling images"), "{who:?}");
        assert_eq!(out.stdout, format!("{loose}\n"), "{who:?}");
        assert_eq!(world.cmd("image prune -f").ok(), "", "{who:?}");

        for filter in ["until=2020-01-01", "label=kind=other", "label!=kind"] {
            assert_eq!(
                world.cmd("image prune -af --filter").arg(filter).ok(),
                "",
                "{who:?} {filter}"
            );
        }
        world
            .cmd("image prune -af --filter colour=red")
            .fails(125)
            .says(&["colour=red"]);
        assert_eq!(
            world.cmd("image prune -af --filter label=kind=named").ok(),
            named,
            "{who:?}"
        );
        assert_eq!(
            names(&data.join("layers")).len(),
            2,
            "{who:?}: busybox's layer and the links"
        );
        assert_eq!(
            world.cmd("start -a box").run().code,
            0,
            "{who:?}: what the container needs is there"
        );
        world.cmd("rm box").ok();
        assert_eq!(world.cmd("image prune -f").ok(), world.image, "{who:?}");
        assert_eq!(names(&data.join("layers")), ["l"], "{who:?}");
        assert!(
            names(&data.join("layers/l")).is_empty() && names(&data.join("blobs/sha256")).is_empty(),
            "{who:?}"
        );
    }
}

#[test]
fn prune_keeps_what_an_app_pins() {
    let world = match World::new(Who::Root) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let other = above(&world, "other");
    let (data, run) = world.roots();
    let store = Store::open(&Layout::new(data, run)).unwrap();
    // What the deployer does for the version that runs and the one before.
    store
        .pin("test", &[format!("sha256:{}", world.image).parse().unwrap()])
        .unwrap();
    assert_eq!(world.cmd("image prune -af").ok(), other);
    assert_eq!(
        world.cmd("run --rm").arg(&world.image).args(["echo", "here"]).ok(),
        "here"
    );
    store.unpin("test").unwrap();
    assert_eq!(world.cmd("image prune -af").ok(), world.image);
}
