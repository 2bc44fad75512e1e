//! Copies between registries, archives and directories, without a store.

use crate::fixture::arch::Arch;
use crate::fixture::cmd::Cmd;
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use serde_json::Value;
use std::fs;

fn index(format: Format) -> Index {
    let tar = Tree::new().dir("srv").file("srv/new", 0o755, vec![7; 200_000]).finish();
    Index::each(format, |recipe| recipe.layer(tar.clone(), Compression::Gzip))
}

fn copy(words: &[&str]) -> Cmd {
    Cmd::dunlin().args(["copy", "-q"]).args(words)
}

/// The id of the image for this machine, every digest checked by skopeo.
fn skopeo_id(place: &str) -> String {
    let scratch = Scratch::new("skopeo");
    let mut flags = vec!["copy", "-q"];
    if place.starts_with("docker://") {
        flags.push("--src-tls-verify=false");
    }
    let to = format!("dir:{}", scratch.join("copy").display());
    Cmd::new("skopeo").args(flags).args([place, &to]).run().expect(0);
    let inspect = Cmd::new("skopeo").args(["inspect", "--config", "--raw", "--tls-verify=false", place]);
    crate::fixture::images::digest(inspect.run().expect(0).stdout.as_bytes())
}

fn raw(place: &str) -> String {
    let inspect = Cmd::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", place]);
    inspect.run().expect(0).stdout
}

#[test]
fn an_image_goes_through_every_transport_and_stays_the_same() {
    for format in [Format::Oci, Format::Docker] {
        let (one, two) = (Registry::plain(), Registry::plain());
        let scratch = Scratch::new("copy");
        let index = index(format);
        one.push("web", "1", &index);
        let id = index.image(Arch::host()).id();
        let at = |name: &str| scratch.join(name).display().to_string();
        let start = format!("docker://{}:1", one.reference("web"));
        let round = [
            start.clone(),
            format!("oci:{}:v1", at("oci")),
            format!("oci-archive:{}:v1", at("oci.tar")),
            format!("dir:{}", at("dir")),
            format!("docker://{}:2", two.reference("a/b")),
            format!("docker-archive:{}:reg.example/web:1", at("docker.tar")),
            format!("docker://{}:3", two.reference("c")),
            format!("docker://{}:4", two.reference("d")),
        ];
        for pair in round.windows(2) {
            copy(&[&pair[0], &pair[1]]).ok();
            assert_eq!(skopeo_id(&pair[1]), id, "{} to {}", pair[0], pair[1]);
        }
        // Blobs went unchanged as far as they could; the last copy sent none.
        let digestfile = at("digest");
        copy(&[
            "--digestfile",
            &digestfile,
            &start,
            &format!("docker://{}:5", two.reference("e")),
        ])
        .ok();
        let manifest = &index.image(Arch::host()).manifest;
        assert_eq!(fs::read_to_string(&digestfile).unwrap(), manifest.digest());
        let sent = two.requests("PATCH", "/v2/d/");
        assert_eq!(sent, 0, "mounted from the other repository");
    }
}

#[test]
fn whole_indexes_go_with_all_and_keep_their_digest() {
    let (one, two) = (Registry::plain(), Registry::plain());
    let scratch = Scratch::new("copy-all");
    let index = index(Format::Oci);
    let pushed = one.push("web", "1", &index);
    let digest = pushed.split('@').nth(1).unwrap().to_owned();
    let start = format!("docker://{}:1", one.reference("web"));
    let round = [
        start.clone(),
        format!("oci:{}:v1", scratch.join("oci").display()),
        format!("dir:{}", scratch.join("dir").display()),
        format!("oci-archive:{}:v1", scratch.join("oci.tar").display()),
        format!("docker://{}:2", two.reference("web")),
    ];
    for pair in round.windows(2) {
        copy(&["--all", &pair[0], &pair[1]]).ok();
        let top = raw(&pair[1]);
        if !pair[1].starts_with("oci") {
            assert_eq!(crate::fixture::images::digest(top.as_bytes()), digest, "{}", pair[1]);
        }
        for arch in Arch::ALL {
            let flags = [
                "--override-arch",
                arch.oci(),
                "inspect",
                "--config",
                "--raw",
                "--tls-verify=false",
            ];
            if pair[1].starts_with("dir:") {
                continue;
            }
            let config = Cmd::new("skopeo").args(flags).arg(&pair[1]).run().expect(0).stdout;
            assert_eq!(
                crate::fixture::images::digest(config.as_bytes()),
                index.image(arch).id()
            );
        }
    }
    // A second name in the same layout leaves the first alone; the same name is replaced.
    let layout = scratch.join("oci");
    let to = |tag: &str| format!("oci:{}:{tag}", layout.display());
    copy(&[&start, &to("v2")]).ok();
    copy(&[&start, &to("v2")]).ok();
    let text: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(text["manifests"].as_array().unwrap().len(), 2, "{text}");
}

#[test]
fn wrong_bytes_and_wrong_names_are_refused() {
    let registry = Registry::plain();
    let scratch = Scratch::new("copy-wrong");
    let index = index(Format::Oci);
    registry.push("web", "1", &index);
    let layer = &index.image(Arch::host()).layers[0];
    let file = registry.blob_file(&layer.digest());
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let start = format!("docker://{}:1", registry.reference("web"));
    let other = Registry::plain();
    for to in [
        format!("docker://{}:1", other.reference("x")),
        format!("dir:{}", scratch.join("dir").display()),
        format!("docker-archive:{}", scratch.join("docker.tar").display()),
    ] {
        copy(&[&start, &to]).fails(125).says(&[&layer.digest(), &to]);
    }
    assert_eq!(other.requests("PUT", "/manifests/"), 0);
    assert!(
        !scratch
            .join("dir")
            .join(layer.digest().trim_start_matches("sha256:"))
            .exists()
    );
    for (from, to, says) in [
        ("web:1", "dir:/tmp/x", "invalid image name"),
        ("docker://localhost:1/x", "web", "invalid image name"),
        ("oci:/nowhere", "dir:/tmp/x", "/nowhere"),
        ("docker://localhost:1/x", "dir:/nowhere/x/y", "localhost:1"),
    ] {
        copy(&[from, to]).fails(125).says(&[says]);
    }
}

#[test]
fn an_image_is_deleted_from_its_registry() {
    let registry = Registry::plain();
    let index = index(Format::Oci);
    registry.push_image("web", "1", index.image(Arch::host()));
    let name = format!("docker://{}:1", registry.reference("web"));
    Cmd::dunlin().args(["image", "delete", &name]).ok();
    Cmd::new("skopeo")
        .args(["inspect", "--tls-verify=false", &name])
        .run()
        .expect(1);
    Cmd::dunlin()
        .args(["image", "delete", &name])
        .fails(125)
        .says(&["does not have"]);
}
