//! Images go to a registry, and nothing that is there goes twice.

use super::{Who, World};
use crate::fixture::arch::Arch;
use crate::fixture::cmd::Cmd;
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::skip;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn index(format: Format, upper: Compression) -> Index {
    let noise: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let lower = Tree::new().dir("srv").file("srv/noise", 0o644, noise).finish();
    let above = Tree::new()
        .whiteout("srv", "gone")
        .file("srv/new", 0o755, "new")
        .finish();
    Index::each(format, |recipe| {
        recipe
            .layer(lower.clone(), Compression::Gzip)
            .layer(above.clone(), upper)
    })
}

/// Uploads that were begun and ended.
fn uploads(registry: &Registry) -> usize {
    registry.requests("PATCH", "/blobs/uploads/")
}

/// What skopeo copies from there, every digest checked; gives the id.
fn skopeo_id(registry: &Registry, name: &str) -> String {
    let scratch = Scratch::new("skopeo");
    let copy = Cmd::new("skopeo").args(["copy", "-q", "--src-tls-verify=false"]);
    copy.arg(format!("docker://{name}"))
        .arg(format!("dir:{}", scratch.join("copy").display()))
        .run()
        .expect(0);
    let inspect = Cmd::new("skopeo").args(["inspect", "--config", "--raw", "--tls-verify=false"]);
    let config = inspect.arg(format!("docker://{name}")).run().expect(0).stdout;
    assert!(registry.is_encrypted() || !config.is_empty());
    crate::fixture::images::digest(config.as_bytes())
        .trim_start_matches("sha256:")
        .to_owned()
}

#[test]
fn what_a_registry_has_is_not_sent_again_and_keeps_its_digest() {
    for (who, format, upper) in [
        (Who::Ranges, Format::Oci, Compression::Zstd),
        (Who::Root, Format::Docker, Compression::Gzip),
    ] {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let registry = Registry::plain();
        let index = index(format, upper);
        let image = index.image(Arch::host());
        registry.push_image("team/web", "1", image);
        let name = format!("{}:1", registry.reference("team/web"));
        let id = world.cmd("pull -q").arg(&name).ok();
        let before = uploads(&registry);
        // The same repository, another tag: only a manifest.
        let digestfile = world.folder("out").join("digest");
        let push = world.cmd("push -q --digestfile").arg(&digestfile);
        push.arg(&name)
            .arg(format!("docker://{}:2", registry.reference("team/web")))
            .ok();
        let digest = image.manifest.digest();
        assert_eq!(fs::read_to_string(&digestfile).unwrap(), digest, "{who:?}");
        // Another repository: mounted.
        let other = format!("{}:1", registry.reference("other"));
        world.cmd("push -q").arg(&name).arg(&other).ok();
        assert_eq!(uploads(&registry), before, "{who:?}");
        assert!(registry.requests("POST", "mount=") >= 2, "{who:?}");
        for name in [&other, &format!("{}:2", registry.reference("team/web"))] {
            assert_eq!(skopeo_id(&registry, name), id, "{who:?}");
            let inspect = Cmd::new("skopeo").args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
            assert_eq!(inspect.arg(format!("docker://{name}")).ok(), digest, "{who:?}");
        }
    }
}

#[test]
fn what_a_registry_does_not_have_is_compressed_the_same_each_time() {
    let world = match World::with(Who::Ranges, index(Format::Oci, Compression::Zstd)) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let id = world.image.clone();
    let digestfile = world.folder("out").join("digest");
    let push = |registry: &Registry, name: &str, flags: &str| {
        let push = world.cmd("push -q --digestfile").arg(&digestfile);
        let push = push.args(flags.split(' ').filter(|flag| !flag.is_empty()));
        let name = format!("{}:1", registry.reference(name));
        push.arg(&id).arg(&name).ok();
        assert_eq!(skopeo_id(registry, &name), id);
        fs::read_to_string(&digestfile).unwrap()
    };
    let (one, two) = (Registry::plain(), Registry::plain());
    let digest = push(&one, "a", "");
    let sent = uploads(&one);
    assert_eq!(
        sent,
        index(Format::Oci, Compression::Gzip).image(Arch::host()).layers.len()
    );
    assert_eq!(push(&two, "b", ""), digest);
    // It is remembered what was sent: another push is a manifest alone.
    assert_eq!(push(&one, "a", ""), digest);
    assert_eq!(uploads(&one), sent);
    let docker = push(&one, "a", "--format v2s2");
    assert_ne!(docker, digest);
    assert_eq!(uploads(&one), sent);
    let raw = Cmd::new("skopeo").args(["inspect", "--raw", "--tls-verify=false"]);
    let raw = raw.arg(format!("docker://{}:1", one.reference("a"))).ok();
    assert!(
        raw.contains("application/vnd.docker.distribution.manifest.v2+json"),
        "{raw}"
    );
    // And back.
    world.cmd("rmi -f").arg(&id).ok();
    let name = format!("{}:1", two.reference("b"));
    assert_eq!(world.cmd("pull -q").arg(&name).ok(), id);
    world.cmd("system check").ok();
    let podman = Scratch::new("podman");
    let podman = |words: &[&str]| {
        let base = Cmd::new("podman").arg("--root").arg(podman.join("root"));
        let base = base
            .arg("--runroot")
            .arg(podman.join("run"))
            .args(["--storage-driver", "vfs"]);
        base.env("HOME", podman.path()).args(words)
    };
    let pulled = podman(&["pull", "-q", "--tls-verify=false", &name]).run();
    if pulled.code != 0 {
        skip!("podman cannot pull here: {}", pulled.stderr);
    }
    assert_eq!(pulled.stdout.trim(), id);
    podman(&["rmi", "-f", &id]).ok();
}

#[test]
fn pushing_needs_credentials_and_says_what_is_wrong() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let registry = Registry::tls_with_password("me", "secret");
    let name = format!("{}:1", registry.reference("web"));
    let certs = world.folder("certs");
    fs::copy(registry.ca(), certs.join("ca.crt")).unwrap();
    Cmd::new("chmod").args(["-R", "a+rX"]).arg(&certs).ok();
    let push = |flags: &[&str]| {
        let push = world.cmd("push -q --cert-dir").arg(&certs).args(flags);
        push.arg(&world.image).arg(&name)
    };
    push(&[]).fails(125).says(&["denied"]);
    push(&["--creds", "me:wrong"]).fails(125).says(&["denied"]);
    push(&["--creds", "me:secret"]).ok();
    assert_eq!(
        world
            .cmd("pull -q --creds me:secret --cert-dir")
            .arg(&certs)
            .arg(&name)
            .ok(),
        world.image
    );
    for (words, says) in [
        ("push nothing localhost:1/x", "nothing"),
        ("push --format x busybox localhost:1/x", "unknown format `x`"),
        ("push -q busybox localhost:1/x", "localhost:1"),
    ] {
        let words = words.replace("busybox", &world.image);
        world.cmd(&words).fails(125).says(&[says]);
    }
    world
        .cmd("push")
        .arg(&world.image)
        .fails(125)
        .says(&["say where the image goes"]);
    // A broken layer is never sent as if it were whole.
    let layers = world.roots().0.join("layers");
    let layer = super::names(&layers).into_iter().find(|name| name != "l").unwrap();
    fs::remove_file(layers.join(&layer).join("packed")).unwrap();
    crate::check::flip(&layers.join(&layer).join("recipe"));
    let fresh = Registry::plain();
    let failed = world
        .cmd("push -q")
        .arg(&world.image)
        .arg(format!("{}:1", fresh.reference("x")));
    failed.fails(125).says(&["system check --repair"]);
    assert_eq!(fresh.requests("PUT", "/manifests/"), 0);
}

/// Passes connections on to a port, and cuts the first few off once the client has sent so many bytes; gives its own port and how
/// often it will still cut.
fn cutting(to: u16, times: usize, after: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let left = Arc::new(AtomicUsize::new(times));
    let shared = left.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                continue;
            };
            let (mut from, mut into) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut into);
                let _ = into.shutdown(Shutdown::Both);
            });
            let left = shared.clone();
            std::thread::spawn(move || {
                let (mut from, mut into) = (client, server);
                let (mut buffer, mut sent) = ([0; 16384], 0);
                while let Ok(got @ 1..) = from.read(&mut buffer) {
                    sent += got;
                    let cuts = sent > after
                        && left
                            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                            .is_ok();
                    if cuts || into.write_all(&buffer[..got]).is_err() {
                        break;
                    }
                }
                let _ = into.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
            });
        }
    });
    (port, left)
}

#[test]
fn a_push_goes_on_after_its_connection_was_cut() {
    let world = match World::with(Who::Ranges, index(Format::Oci, Compression::Gzip)) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let registry = Registry::plain();
    let (port, left) = cutting(registry.port(), 3, 300_000);
    world
        .cmd("push -q")
        .arg(&world.image)
        .arg(format!("127.0.0.1:{port}/web:1"))
        .ok();
    assert_eq!(left.load(Ordering::Relaxed), 0, "it was cut");
    assert_eq!(
        skopeo_id(&registry, &format!("{}:1", registry.reference("web"))),
        world.image
    );
}

#[test]
fn layers_are_compressed_as_asked_and_the_image_stays_the_same() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let registry = Registry::plain();
    let index = index(Format::Oci, Compression::Zstd);
    registry.push_image("team/web", "1", index.image(Arch::host()));
    let name = format!("{}:1", registry.reference("team/web"));
    let id = world.cmd("pull -q").arg(&name).ok();
    // Types and sizes of the layers of a manifest.
    let layers = |name: &str| -> Vec<(String, u64)> {
        let raw = Cmd::new("skopeo").args(["inspect", "--raw", "--tls-verify=false"]);
        let raw: serde_json::Value = serde_json::from_str(&raw.arg(format!("docker://{name}")).ok()).unwrap();
        let layers = raw["layers"].as_array().unwrap().iter();
        layers
            .map(|layer| {
                (
                    layer["mediaType"].as_str().unwrap().to_owned(),
                    layer["size"].as_u64().unwrap(),
                )
            })
            .collect()
    };
    let push = |flags: &str, tag: &str| {
        let to = format!("{}:{tag}", registry.reference("team/web"));
        world.cmd(&format!("push -q {flags}")).arg(&name).arg(&to).ok();
        assert_eq!(skopeo_id(&registry, &to), id, "{flags}");
        layers(&to)
    };
    let came = layers(&name);
    assert!(came.last().unwrap().0.ends_with("+zstd"), "{came:?}");
    let before = uploads(&registry);
    assert_eq!(push("", "same"), came, "what is there is taken as it is");
    assert_eq!(uploads(&registry), before);
    let gzip = push("--compression-format gzip", "gzip");
    assert!(gzip.iter().all(|(kind, _)| kind.ends_with("+gzip")), "{gzip:?}");
    assert_eq!(
        gzip[..gzip.len() - 1],
        came[..came.len() - 1],
        "those that came with gzip are as they were"
    );
    assert_eq!(uploads(&registry), before + 1);
    push("--compression-format gzip", "again");
    assert_eq!(uploads(&registry), before + 1, "it is remembered what was sent");
    let fast = push("--compression-level 1", "fast");
    assert_eq!(uploads(&registry), before + 1 + fast.len());
    let small = push("--compression-format gzip --compression-level 9", "small");
    let total = |layers: &[(String, u64)]| layers.iter().map(|(_, size)| size).sum::<u64>();
    assert!(total(&fast) > total(&small), "{fast:?} {small:?}");
    assert_eq!(push("", "last"), came);
    for (flags, says) in [
        ("--compression-format zstd", "gzip alone"),
        ("--compression-level 0", "from 1 to 9"),
    ] {
        world.cmd(&format!("push {flags}")).arg(&name).fails(125).says(&[says]);
    }
    let archive = world
        .cmd("push --compression-level 9")
        .arg(&name)
        .arg("oci-archive:/nonexistent/x");
    archive.fails(125);
}
