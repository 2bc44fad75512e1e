//! Pulls from a real docker-registry into a store, with real decoders and workers.

use crate::fixture::arch::Arch;
use crate::fixture::cmd::dunlin;
use crate::fixture::images::{Blob, Compression, Format, Image, Index, Recipe};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::fixture::workers::{Surroundings, open_to_all};
use dunlin::config::auth::AuthPlaces;
use dunlin::config::certs::CertPlaces;
use dunlin::config::registries::Registries;
use dunlin::disk::layout::Layout;
use dunlin::image::check;
use dunlin::image::layout::{Layout as Files, Transport};
use dunlin::image::load;
use dunlin::image::pull::{LayerError, Progress, PullError, PullOptions, pull};
use dunlin::image::sweep::{discard, sweep};
use dunlin::image::unpack::UnpackError;
use dunlin::image::worker::{Children, WorkerError, Workers};
use dunlin::registry::{Client, Settings};
use dunlin::store::{ImageRecord, Remedy, Store, StoreError};
use dunlin::types::deployment::Reason;
use dunlin::types::reference::Reference;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A store in a folder of its own.
pub struct Place {
    pub scratch: Scratch,
    pub store: Store,
    pub workers: Arc<dyn Workers>,
}

impl Place {
    pub fn new() -> Place {
        Place::at(Scratch::new("pull"), Arc::new(Children { program: dunlin() }), None)
    }

    pub fn at(scratch: Scratch, workers: Arc<dyn Workers>, owner: Option<u32>) -> Place {
        open_to_all(scratch.path());
        let mut store = Store::open(&Layout::new(scratch.join("data"), scratch.join("run"))).unwrap();
        if let Some(owner) = owner {
            store = store.with_tree_owner(owner, owner).unwrap();
        }
        Place {
            scratch,
            store,
            workers,
        }
    }

    pub fn pull(&self, reference: &str) -> Result<ImageRecord, PullError> {
        self.pull_seeing(reference, &mut |_| ())
    }

    fn pull_seeing(
        &self,
        reference: &str,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ImageRecord, PullError> {
        let reference: Reference = reference.parse().unwrap();
        block(pull(
            &self.store,
            &client(),
            &self.workers,
            &reference,
            &options(),
            progress,
        ))
    }

    /// The image's tree as one, for looking into.
    pub fn flat(&self, image: &ImageRecord) -> std::path::PathBuf {
        let to = self.scratch.join(format!("flat-{}", image.id.short()));
        let _ = fs::remove_dir_all(&to);
        fs::create_dir(&to).unwrap();
        let all = dunlin::sys::fs::name_dir(&self.store.layout().layers()).unwrap();
        let dir = dunlin::sys::fs::name_dir(&to).unwrap();
        use std::os::fd::AsFd;
        let trees = self.store.trees(image).unwrap();
        dunlin::image::worker::copy(&*self.workers, all.as_fd(), trees, dir.as_fd()).unwrap();
        to
    }

    /// Nothing but the folders and records of an empty store, and nobody at work.
    pub fn assert_empty(&self, label: &str) {
        for folder in [
            self.store.layout().blobs(),
            self.store.layout().images(),
            self.store.layout().refs(),
        ] {
            assert_eq!(count(&folder), 0, "{label}: `{}`", folder.display());
        }
        let tmp: Vec<_> = files(&self.store.layout().tmp());
        assert!(tmp.is_empty(), "{label}: {tmp:?}");
        let layers: Vec<_> = fs::read_dir(self.store.layout().layers())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(layers, ["l"], "{label}");
        let mine = |(_, line): &(u32, String)| line.contains("worker --fd") || line.contains("decode ");
        assert!(!self.scratch.processes().iter().any(mine), "{label}: helpers are left");
    }
}

/// All paths in a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            all.extend(files(&path));
        }
        all.push(path);
    }
    all
}

pub fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

pub fn options() -> PullOptions {
    PullOptions {
        program: dunlin(),
        ..PullOptions::default()
    }
}

pub fn client() -> Client {
    Client::new(Settings::new(
        Registries::default(),
        AuthPlaces::default(),
        CertPlaces::default(),
    ))
}

pub fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

pub fn host() -> Arch {
    Arch::ALL
        .into_iter()
        .find(|arch| arch.name() == std::env::consts::ARCH)
        .unwrap()
}

/// Bytes that do not compress.
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend_from_slice(&seed.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Takes an image of a folder in OCI's layout.
pub fn take_layout(
    store: &Store,
    workers: &Arc<dyn Workers>,
    folder: &Path,
    tag: Option<&str>,
) -> Result<ImageRecord, PullError> {
    take(store, workers, Transport::Oci, folder, tag)
}

/// Takes an image of files.
pub fn take(
    store: &Store,
    workers: &Arc<dyn Workers>,
    transport: Transport,
    place: &Path,
    tag: Option<&str>,
) -> Result<ImageRecord, PullError> {
    let files = Files::open(transport, place).unwrap();
    block(load::pick(store, workers, &files, tag, &options(), &mut |_| ()))
}

pub fn layer_error(error: PullError) -> LayerError {
    match error {
        PullError::Layer { source, .. } => *source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_comes_whole_in_every_format_and_surrounding() {
    let registry = Registry::plain();
    let upper = |tree: Tree| {
        tree.dir("etc")
            .whiteout("etc", "gone")
            .dir("opt")
            .opaque("opt")
            .file("opt/new", 0o640, "new")
            .finish()
    };
    let lower = || {
        let base = Tree::new()
            .dir("etc")
            .file("etc/gone", 0o644, "x")
            .file("etc/kept", 0o4755, "kept")
            .dir("opt");
        base.file("opt/old", 0o644, "old")
            .owned_file("etc/owned", 0o600, 1000, "mine")
            .hardlink("etc/link", "etc/kept")
    };
    for surroundings in Surroundings::all() {
        for format in [Format::Oci, Format::Docker] {
            let zstd = if format == Format::Oci {
                Compression::Zstd
            } else {
                Compression::Plain
            };
            let index = Index::each(format, |recipe| {
                recipe
                    .layer(lower().finish(), zstd)
                    .layer(upper(Tree::new()), Compression::Plain)
            });
            registry.push("whole", "1", &index);
            let place = Place::at(Scratch::new("pull"), surroundings.workers(), surroundings.owner());
            let name = format!("{}:1", registry.reference("whole"));
            let image = place.pull(&name).unwrap();
            let label = format!("{} {format:?}", surroundings.name());
            assert_eq!(image.id.to_string(), index.image(host()).id(), "{label}");
            assert_eq!(image.names, [name.parse().unwrap()], "{label}");
            assert_eq!(image.layers.len(), 3);
            assert_eq!(place.store.lowers(&image).unwrap().len(), 3);
            assert!(place.store.config(&image).unwrap().config.is_some());
            // Overlay's form, topmost first.
            let lowers = place.store.lowers(&image).unwrap();
            let gone = fs::symlink_metadata(lowers[0].join("etc/gone")).unwrap();
            assert_eq!(
                (gone.mode() & 0o170_000, gone.rdev()),
                (0o020_000, 0),
                "{label}: a whiteout"
            );
            let opt = fs::File::open(lowers[0].join("opt")).unwrap();
            let opaque = dunlin::sys::fs::get_xattr(&opt, b"user.overlay.opaque").unwrap();
            assert_eq!(opaque.as_deref(), Some(&b"y"[..]), "{label}");
            // As one tree.
            surroundings.give(&place.scratch.folder("made"));
            let flat = place.scratch.join("flat");
            fs::create_dir(&flat).unwrap();
            surroundings.give(&flat);
            copy_into(&place, &image, &flat);
            assert!(
                !flat.join("etc/gone").exists() && !flat.join("opt/old").exists(),
                "{label}"
            );
            assert_eq!(fs::read(flat.join("etc/kept")).unwrap(), b"kept");
            let kept = fs::metadata(flat.join("etc/kept")).unwrap();
            assert_eq!((kept.mode() & 0o7777, kept.nlink()), (0o4755, 2), "{label}");
            let owned = fs::metadata(flat.join("etc/owned")).unwrap();
            if surroundings.has_ids() {
                assert_ne!(owned.uid(), kept.uid(), "{label}");
            } else {
                let file = fs::File::open(flat.join("etc/owned")).unwrap();
                let owner = dunlin::sys::fs::get_xattr(&file, b"user.dunlin.owner").unwrap();
                assert_eq!(owner.as_deref(), Some(&b"1000:1000"[..]), "{label}");
            }
            assert!(flat.join("bin/sh").symlink_metadata().is_ok());
            let gone = place.store.remove(&image, false).unwrap();
            assert_eq!(gone.layers.len(), 3);
            discard(&gone, &*place.workers).unwrap();
            drop(gone);
            place.assert_empty(&label);
        }
    }
}

fn copy_into(place: &Place, image: &ImageRecord, to: &Path) {
    use std::os::fd::AsFd;
    let all = dunlin::sys::fs::name_dir(&place.store.layout().layers()).unwrap();
    let to = dunlin::sys::fs::name_dir(to).unwrap();
    let trees = place.store.trees(image).unwrap();
    dunlin::image::worker::copy(&*place.workers, all.as_fd(), trees, to.as_fd()).unwrap();
}

#[test]
fn an_unchanged_tag_costs_one_request_and_a_new_layer_only_itself() {
    let registry = Registry::plain();
    let place = Place::new();
    registry.push("app", "1", &Index::busybox(Format::Oci));
    let name = format!("{}:1", registry.reference("app"));
    let first = place.pull(&name).unwrap();
    let (heads, gets) = (registry.requests("HEAD", "/v2/"), registry.requests("GET", "/v2/"));
    assert_eq!(place.pull(&name).unwrap(), first);
    assert_eq!(registry.requests("HEAD", "/v2/"), heads + 1);
    assert_eq!(registry.requests("GET", "/v2/"), gets);
    let top = Tree::new().file("version", 0o644, "2").finish();
    let index = Index::each(Format::Oci, |recipe| recipe.layer(top.clone(), Compression::Gzip));
    let pinned = registry.push("app", "1", &index);
    let blobs = registry.requests("GET", "/blobs/");
    let mut events = Vec::new();
    let second = place.pull_seeing(&name, &mut |event| events.push(event)).unwrap();
    assert_eq!(
        registry.requests("GET", "/blobs/"),
        blobs + 2,
        "the configuration and the new layer"
    );
    assert_eq!(second.layers[0], first.layers[0]);
    assert_eq!(events.iter().filter(|e| matches!(e, Progress::Exists(_))).count(), 1);
    assert_eq!(events.iter().filter(|e| matches!(e, Progress::Done(_))).count(), 1);
    // A reference with a digest needs no request at all once it is there.
    place.pull(&pinned).unwrap();
    let all = registry.requests("GET", "/v2/") + registry.requests("HEAD", "/v2/");
    assert_eq!(place.pull(&pinned).unwrap().id, second.id);
    assert_eq!(
        registry.requests("GET", "/v2/") + registry.requests("HEAD", "/v2/"),
        all
    );
    // The old image lost its name; its layer is the new one's too.
    let old = place.store.find(&first.id.short()).unwrap();
    assert!(old.names.is_empty());
    let pruned = place.store.prune(false).unwrap();
    assert_eq!((pruned.images.as_slice(), pruned.layers.len()), (&[first.id][..], 0));
    assert!(place.flat(&second).join("version").exists());
}

#[test]
fn layers_that_lean_on_lower_ones_are_kept_by_chain() {
    let registry = Registry::plain();
    let base = |mode| {
        Tree::new()
            .dir_mode("srv", mode)
            .dir("srv/deep")
            .file("srv/file", 0o640, "below")
            .finish()
    };
    // A file in a folder without an entry, and a hard link to a file of the layer below.
    let top = Tree::new()
        .file("srv/deep/new", 0o644, "new")
        .hardlink("srv/again", "srv/file")
        .finish();
    let build = |mode| {
        Recipe::new(host())
            .layer(base(mode), Compression::Plain)
            .layer(top.clone(), Compression::Gzip)
            .build()
    };
    let place = Place::new();
    let mut keys = Vec::new();
    for mode in [0o700, 0o711] {
        let image = build(mode);
        registry.push_image("lean", &mode.to_string(), &image);
        let image = place.pull(&format!("{}:{mode}", registry.reference("lean"))).unwrap();
        assert_ne!(image.layers[1].key, image.layers[1].diff);
        keys.push(image.layers[1].key);
        let tree = place.store.lowers(&image).unwrap()[0].clone();
        assert_eq!(
            fs::metadata(tree.join("srv")).unwrap().mode() & 0o7777,
            mode,
            "as in the layer below"
        );
        assert_eq!(fs::read(tree.join("srv/again")).unwrap(), b"below");
        assert_eq!(
            fs::metadata(tree.join("srv/file")).unwrap().nlink(),
            2,
            "copied up and linked"
        );
    }
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn what_is_wrong_is_refused_by_name_and_nothing_is_left() {
    let registry = Registry::plain();
    let place = Place::new();
    let good = Tree::new().file("big", 0o644, noise(300_000, 1)).finish();
    let flipped = |image: &Image| {
        let path = registry.blob_file(&image.layers[0].digest());
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    };
    let push = |name: &str, image: &Image| {
        registry.push_image(name, "1", image);
        format!("{}:1", registry.reference(name))
    };
    let one = |tar: Vec<u8>, compression| Recipe::new(host()).layer(tar, compression).build();

    let image = one(good.clone(), Compression::Plain);
    let name = push("flipped", &image);
    flipped(&image);
    let error = place.pull(&name).unwrap_err();
    assert_eq!(error.code(), Reason::Verify);
    assert!(matches!(layer_error(error), LayerError::Digest { .. }));
    place.assert_empty("a flipped bit");

    let image = one(good.clone(), Compression::Gzip);
    let name = push("corrupt", &image);
    flipped(&image);
    assert!(matches!(
        layer_error(place.pull(&name).unwrap_err()),
        LayerError::Digest { .. } | LayerError::Decode(_)
    ));
    place.assert_empty("a flipped bit in gzip");

    let image = one(
        Tree::new().file("big", 0o644, noise(300_000, 2)).finish(),
        Compression::Plain,
    );
    let name = push("short", &image);
    let path = registry.blob_file(&image.layers[0].digest());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..100_000]).unwrap();
    assert!(matches!(
        layer_error(place.pull(&name).unwrap_err()),
        LayerError::Registry(_)
    ));
    place.assert_empty("a short body");

    let good = Tree::new().file("big", 0o644, noise(300_000, 3)).finish();
    let mut image = one(good.clone(), Compression::Gzip);
    let config = String::from_utf8(image.config.bytes.clone()).unwrap();
    let diff = crate::fixture::images::digest(&good);
    image.config = Blob::new(
        image.config.media_type.clone(),
        config.replace(&diff, &format!("sha256:{:064}", 7)).into(),
    );
    let manifest = String::from_utf8(image.manifest.bytes.clone()).unwrap();
    let old = one(good.clone(), Compression::Gzip).config.digest();
    image.manifest = Blob::new(
        image.manifest.media_type.clone(),
        manifest.replace(&old, &image.config.digest()).into(),
    );
    let name = push("otherdiff", &image);
    let error = layer_error(place.pull(&name).unwrap_err());
    assert!(matches!(error, LayerError::DiffId { .. }), "{error}");
    place.assert_empty("another diff id");

    let name = push(
        "escape",
        &one(Tree::new().file("../evil", 0o644, "x").finish(), Compression::Zstd),
    );
    let error = layer_error(place.pull(&name).unwrap_err());
    assert!(
        matches!(
            error,
            LayerError::Worker(WorkerError::Unpack(UnpackError::Escapes { .. }))
        ),
        "{error}"
    );
    place.assert_empty("a path that escapes");

    // The good layer beside the bad one is given up too.
    let both = Recipe::new(host()).layer(good.clone(), Compression::Gzip);
    let name = push(
        "both",
        &both
            .layer(
                Tree::new().symlink("s", "/").file("s/x", 0o644, "").finish(),
                Compression::Gzip,
            )
            .build(),
    );
    assert!(matches!(
        layer_error(place.pull(&name).unwrap_err()),
        LayerError::Worker(_)
    ));
    let gone = place.store.prune(true).unwrap();
    discard(&gone, &*place.workers).unwrap();
    drop(gone);
    place.assert_empty("one of two layers");

    let bomb = Tree::new().file("zeros", 0o644, vec![0; 300 << 20]).finish();
    let name = push("bomb", &one(bomb, Compression::Zstd));
    let error = layer_error(place.pull(&name).unwrap_err());
    assert!(
        matches!(
            error,
            LayerError::Worker(WorkerError::Unpack(UnpackError::Bytes { .. })) | LayerError::Decode(_)
        ),
        "{error}"
    );
    place.assert_empty("a bomb");

    let name = push(
        "foreign",
        &Recipe::new(Arch::foreign()).layer(good, Compression::Gzip).build(),
    );
    let error = place.pull(&name).unwrap_err();
    assert_eq!(error.code(), Reason::NoArch);
    assert!(error.to_string().contains(Arch::foreign().oci()), "{error}");
    place.assert_empty("another platform");
}

#[test]
fn a_missing_platform_lists_those_that_exist() {
    let registry = Registry::plain();
    let place = Place::new();
    let foreign = Arch::foreign();
    let images = ["arm", "s390x"].map(|architecture| Recipe::busybox(foreign).platform("linux", architecture).build());
    registry.push("others", "1", &Index::new(Format::Oci, images.into()));
    let error = place.pull(&format!("{}:1", registry.reference("others"))).unwrap_err();
    assert_eq!(error.code(), Reason::NoArch);
    let text = error.to_string();
    assert!(text.contains("linux/arm") && text.contains("linux/s390x"), "{text}");
    place.assert_empty("no platform");
}

#[test]
fn many_pulls_of_one_image_fetch_each_layer_once() {
    let registry = Registry::plain();
    let place = Place::new();
    let tree = |seed| {
        Tree::new()
            .file(&format!("noise{seed}"), 0o644, noise(3_000_000, seed))
            .finish()
    };
    let image = (1..=5)
        .fold(Recipe::new(host()), |recipe, seed| {
            recipe.layer(tree(seed), Compression::Gzip)
        })
        .build();
    registry.push_image("many", "1", &image);
    let name = format!("{}:1", registry.reference("many"));
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| place.pull(&name).unwrap().id)).collect();
        for pull in pulls {
            assert_eq!(pull.join().unwrap().to_string(), image.id());
        }
    });
    for layer in &image.layers {
        assert_eq!(registry.requests("GET", &format!("/blobs/{}", layer.digest())), 1);
    }
    assert_eq!(sweep(&place.store, &*place.workers, false).unwrap(), 0);
    assert_eq!(count(&place.store.layout().tmp()), 0);
}

#[test]
fn a_pull_that_is_given_up_leaves_only_what_the_next_one_goes_on_with() {
    let registry = Registry::plain();
    let place = Place::new();
    let tree = |seed| {
        Tree::new()
            .file(&format!("noise{seed}"), 0o644, noise(8_000_000, seed))
            .finish()
    };
    let image = (1..=4)
        .fold(Recipe::new(host()), |recipe, seed| {
            recipe.layer(tree(seed), Compression::Plain)
        })
        .build();
    registry.push_image("slow", "1", &image);
    let reference: Reference = format!("{}:1", registry.reference("slow")).parse().unwrap();
    for millis in [1, 5, 20, 40, 80] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ended = runtime.block_on(async {
            let (client, options, mut progress) = (client(), options(), |_| ());
            let pull = pull(
                &place.store,
                &client,
                &place.workers,
                &reference,
                &options,
                &mut progress,
            );
            tokio::time::timeout(Duration::from_millis(millis), pull).await
        });
        // Waits for the helpers' threads.
        drop(runtime);
        if ended.is_ok() {
            break;
        }
        let gone = place.store.prune(true).unwrap();
        discard(&gone, &*place.workers).unwrap();
        drop(gone);
        let faults = place.store.survey().unwrap().faults;
        assert!(faults.is_empty(), "after {millis} ms: {faults:?}");
        sweep(&place.store, &*place.workers, true).unwrap();
        place.assert_empty(&format!("after {millis} ms"));
    }
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn pulls_where_it_is_told_to() {
    let Some(told) = std::env::var_os("DUNLIN_TEST_PULL") else {
        return;
    };
    let told = told.into_string().unwrap();
    let (folder, name) = told.split_once('|').unwrap();
    let store = Store::open(&Layout::new(format!("{folder}/data"), format!("{folder}/run"))).unwrap();
    let workers: Arc<dyn Workers> = Arc::new(Children { program: dunlin() });
    let gone = match std::env::var("DUNLIN_TEST_REMOVE").as_deref() {
        Ok("image") => store.find(name).map(|image| store.remove(&image, false)),
        Ok(_) => Ok(store.prune(true)),
        Err(_) => Err(StoreError::NotFound { name: String::new() }),
    };
    if let Ok(gone) = gone {
        discard(&gone.unwrap(), &*workers).unwrap();
        return;
    }
    let done = block(pull(
        &store,
        &client(),
        &workers,
        &name.parse().unwrap(),
        &options(),
        &mut |_| (),
    ));
    done.unwrap();
}

#[test]
fn a_killed_pull_leaves_a_sound_store_and_the_next_one_cleans_up() {
    let registry = Registry::plain();
    let tree = |seed| {
        Tree::new()
            .file(&format!("noise{seed}"), 0o644, noise(4_000_000, seed))
            .finish()
    };
    let image = (1..=3)
        .fold(Recipe::new(host()), |recipe, seed| {
            recipe.layer(tree(seed), Compression::Gzip)
        })
        .build();
    registry.push_image("killed", "1", &image);
    let name = format!("{}:1", registry.reference("killed"));
    let start = |folder: &Path| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "pull::pulls_where_it_is_told_to", "--nocapture"]);
        command
            .env("DUNLIN_TEST_PULL", format!("{}|{name}", folder.display()))
            .env("DUNLIN_BIN", dunlin());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let place = Place::new();
    // How long an undisturbed pull takes here and now.
    let calm = Place::new();
    let since = Instant::now();
    assert!(start(calm.scratch.path()).wait().unwrap().success());
    let whole = since.elapsed();
    let mut killed = 0;
    for step in 0..12 {
        let mut child = start(place.scratch.path());
        std::thread::sleep(whole.mul_f64(f64::from(step) / 11.0));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        child.wait().unwrap();
        // Whatever the store shows is whole.
        for image in place.store.images().unwrap() {
            assert_eq!(place.store.lowers(&image).unwrap().len(), 3);
            place.store.config(&image).unwrap();
        }
        for entry in fs::read_dir(place.store.layout().layers()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "l" {
                assert!(entry.path().join("record").exists() && entry.path().join("diff").exists());
            }
        }
        let survey = place.store.survey().unwrap();
        for fault in &survey.faults {
            let garbage = matches!(fault.remedy, Remedy::Collect | Remedy::Sweep | Remedy::Remove(_));
            assert!(garbage, "after kill {step}: {fault:?}");
        }
        for key in survey.layers.keys() {
            let found = check::layer(&place.store, &*place.workers, key, false, &mut |_| ()).unwrap();
            assert!(found.is_good() && !found.not_checkable, "after kill {step}: {found:?}");
        }
        if step % 2 == 1 {
            let gone = place.store.prune(true).unwrap();
            discard(&gone, &*place.workers).unwrap();
            // The next one begins anew.
            sweep(&place.store, &*place.workers, true).unwrap();
        }
    }
    assert!(killed >= 5, "only {killed} were killed");
    // Orphaned workers notice that nobody feeds them; the sweep waits for their areas' locks only.
    let image = place.pull(&name).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while count(&place.store.layout().tmp()) > 0 {
        sweep(&place.store, &*place.workers, false).unwrap();
        assert!(Instant::now() < deadline, "tmp is not swept");
        std::thread::sleep(Duration::from_millis(50));
    }
    let flat = place.flat(&image);
    for seed in 1..=3 {
        assert!(fs::read(flat.join(format!("noise{seed}"))).unwrap() == noise(4_000_000, seed));
    }
}

#[test]
fn an_oci_layout_is_a_source_too() {
    let place = Place::new();
    let index = Index::busybox(Format::Oci);
    let folder = place.scratch.folder("Layout");
    index.write_layout(&folder, "v1");
    let get = |tag: Option<&str>| take_layout(&place.store, &place.workers, &folder, tag);
    let image = get(Some("v1")).unwrap();
    assert_eq!(image.id.to_string(), index.image(host()).id());
    assert_eq!(image.names[0].to_string(), "localhost/layout:v1");
    assert_eq!(get(None).unwrap().id, image.id);
    let error = get(Some("v2")).unwrap_err().to_string();
    assert!(error.contains("`v2`") && error.contains("v1"), "{error}");
    let layer = index.image(host()).layers[0].digest();
    let path = folder.join("blobs/sha256").join(layer.trim_start_matches("sha256:"));
    let mut bytes = fs::read(&path).unwrap();
    bytes[50] ^= 1;
    fs::write(&path, bytes).unwrap();
    let fresh = Place::new();
    let error = take_layout(&fresh.store, &fresh.workers, &folder, None).unwrap_err();
    assert!(matches!(
        layer_error(error),
        LayerError::Digest { .. } | LayerError::Decode(_)
    ));
    fresh.assert_empty("a damaged layout");
}

#[test]
fn images_are_found_tagged_pinned_and_removed() {
    let registry = Registry::plain();
    let place = Place::new();
    registry.push("team/app", "1", &Index::busybox(Format::Oci));
    let name = format!("{}:1", registry.reference("team/app"));
    let image = place.pull(&name).unwrap();
    let hex = image.id.hex();
    for text in [
        &name,
        "app:1",
        "team/app:1",
        &hex,
        &hex[..12],
        &format!("sha256:{hex}"),
        &image.id.short(),
    ] {
        assert_eq!(place.store.find(text).unwrap().id, image.id, "{text}");
    }
    for text in ["app", "pp:1", "app:2", "other:1", "zz", "ffffffffffff", ""] {
        assert!(
            matches!(place.store.find(text), Err(StoreError::NotFound { .. })),
            "{text}"
        );
    }
    let second: Reference = "localhost/mine:x".parse().unwrap();
    place.store.tag(&image, &second).unwrap();
    assert_eq!(place.store.image(&image.id).unwrap().unwrap().names.len(), 2);
    assert!(place.store.untag(&second).unwrap());
    assert!(!place.store.untag(&second).unwrap());
    place.store.pin("c-1", &[image.id]).unwrap();
    let error = place.store.remove(&image, false).unwrap_err();
    assert!(matches!(&error, StoreError::InUse { by, .. } if by == "c-1"), "{error}");
    let forced = place.store.remove(&image, true).unwrap();
    assert!(
        forced.images.is_empty() && forced.untagged.len() == 1,
        "pinned: only untagged"
    );
    drop(forced);
    assert!(place.store.prune(true).unwrap().images.is_empty());
    place.store.unpin("c-1").unwrap();
    let gone = place.store.prune(false).unwrap();
    assert_eq!(gone.images, [image.id]);
    discard(&gone, &*place.workers).unwrap();
    drop(gone);
    place.assert_empty("pruned");
    for bad in ["", ".x", "a/b", "ä"] {
        assert!(place.store.pin(bad, &[]).is_err(), "{bad}");
    }
}

#[test]
fn a_full_disk_is_said_before_anything_is_fetched() {
    let registry = Registry::plain();
    let place = Place::new();
    registry.push("app", "1", &Index::busybox(Format::Oci));
    let reference: Reference = format!("{}:1", registry.reference("app")).parse().unwrap();
    let options = PullOptions {
        reserve: u64::MAX / 2,
        ..options()
    };
    let error = block(pull(
        &place.store,
        &client(),
        &place.workers,
        &reference,
        &options,
        &mut |_| (),
    ))
    .unwrap_err();
    assert_eq!(error.code(), Reason::Disk);
    assert!(matches!(error, PullError::Space { .. }), "{error}");
    place.assert_empty("no room");
}
