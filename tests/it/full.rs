//! A disk that becomes full at any stage of a pull: a clear error, everything given back, and what was there before untouched.

use crate::fixture::images::{Compression, Recipe};
use crate::fixture::registry::Registry;
use crate::fixture::tree::Tree;
use crate::pull::{Place, block, client, host, noise, options};
use crate::resume::mixed;
use crate::skip;
use dunlin::disk::layout::Layout;
use dunlin::image::check;
use dunlin::image::pull::{PullOptions, pull};
use dunlin::image::sweep::sweep;
use dunlin::image::worker::{Children, Workers};
use dunlin::store::{Remedy, Store};
use dunlin::types::deployment::Reason;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Bytes of the file system.
const DISK: u64 = 24 << 20;

fn free(dir: &Path) -> u64 {
    dunlin::sys::fs::space(dunlin::sys::fs::open_dir(dir).unwrap())
        .unwrap()
        .bytes
}

/// Not a test of its own: works in the mount namespace that the next one makes.
#[test]
fn fills_the_disk_that_it_is_given() {
    let Ok(told) = std::env::var("DUNLIN_TEST_FULL") else {
        return;
    };
    let [disk, base, app] = told.split('|').collect::<Vec<_>>()[..] else {
        panic!("{told}")
    };
    let disk = Path::new(disk);
    let store = Store::open(&Layout::new(disk.join("data"), disk.join("run"))).unwrap();
    let workers: Arc<dyn Workers> = Arc::new(Children {
        program: crate::fixture::cmd::dunlin(),
    });
    let options = PullOptions {
        reserve: 0,
        ..options()
    };
    let get = |name: &str| {
        block(pull(
            &store,
            &client(),
            &workers,
            &name.parse().unwrap(),
            &options,
            &mut |_| (),
        ))
    };
    let there = get(base).unwrap();
    // What a container has: its layers mounted, a program that runs from them, and a file that it writes.
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| {
        fs::create_dir(disk.join(name)).unwrap();
        disk.join(name).display().to_string()
    });
    let lowers: Vec<String> = store
        .lowers(&there)
        .unwrap()
        .iter()
        .map(|dir| dir.display().to_string())
        .collect();
    let data = format!(
        "lowerdir={},upperdir={upper},workdir={work},userxattr",
        lowers.join(":")
    );
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &data, &merged])
        .status()
        .unwrap();
    assert!(mounted.success(), "{data}");
    let log = Path::new(&merged).join("log");
    fs::write(&log, vec![b'-'; 1 << 20]).unwrap();
    struct Container(std::process::Child);
    impl Drop for Container {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let container = Command::new("chroot")
        .args([
            &merged,
            "/bin/sh",
            "-c",
            "while :; do printf x | dd of=/log conv=notrunc 2>/dev/null || exit 9; sleep 0.05; done",
        ])
        .spawn()
        .unwrap();
    let mut container = Container(container);
    let whole = free(disk);
    let mut refused = std::collections::BTreeSet::new();
    let mut fits = false;
    // From next to nothing to more than enough, in steps that are no multiple of anything.
    let mut room = 24u64 << 10;
    while !fits {
        let ballast = disk.join("ballast");
        let file = fs::File::create(&ballast).unwrap();
        let size = free(disk).saturating_sub(room);
        assert!(size > 0, "the image does not fit at all");
        for chunk in (0..size).step_by(64 << 10) {
            (&file)
                .write_all(&vec![1; (size - chunk).min(64 << 10) as usize])
                .unwrap();
        }
        file.sync_all().unwrap();
        let before = free(disk);
        match get(app) {
            Ok(image) => {
                fits = true;
                assert_eq!(image.layers.len(), 3);
            }
            Err(error) => {
                let text = error.to_string();
                assert_eq!(error.code(), Reason::Disk, "with {room} bytes: {text}");
                refused.insert(text.split('`').next_back().unwrap_or("").to_owned());
                let tmp: Vec<_> = fs::read_dir(store.layout().tmp())
                    .unwrap()
                    .map(|e| e.unwrap().file_name())
                    .collect();
                let left = tmp
                    .iter()
                    .filter(|name| !name.to_str().unwrap().starts_with("lock-"))
                    .count();
                assert_eq!(left, 0, "with {room} bytes: {tmp:?}");
                // Layers that were finished stay until they are collected; nothing else.
                for fault in store.survey().unwrap().faults {
                    assert_eq!(fault.remedy, Remedy::Collect, "with {room} bytes: {fault:?}");
                }
                drop(dunlin::image::sweep::discard(&store.tidy().unwrap(), &*workers));
                let after = free(disk);
                assert!(
                    after + 16384 >= before,
                    "with {room} bytes: {before} bytes were free, then {after}"
                );
            }
        }
        assert!(
            container.0.try_wait().unwrap().is_none(),
            "with {room} bytes: the container has ended"
        );
        fs::remove_file(ballast).unwrap();
        room += room / 5 + 20_011;
    }
    assert!(refused.len() > 1, "refused at several stages: {refused:?}");
    println!("refused in {} ways: {refused:#?}", refused.len());
    for image in store.images().unwrap() {
        for layer in image.layers {
            let found = check::layer(&store, &*workers, &layer.key, false, &mut |_| ()).unwrap();
            assert!(found.is_good(), "{found:?}");
        }
    }
    assert_eq!(sweep(&store, &*workers, true).unwrap(), 0);
    assert!(free(disk) < whole);
}

#[test]
fn a_disk_that_becomes_full_is_said_and_everything_given_back() {
    let registry = Registry::plain();
    registry.push_image("base", "1", &Recipe::busybox(host()).build());
    let many = (0..600).fold(Tree::new().dir("d"), |tree, n| {
        tree.file(&format!("d/{n}"), 0o644, noise(1500, n + 1))
    });
    let app = Recipe::new(host())
        .layer(
            Tree::new().file("one", 0o644, mixed(2_000_000, 1)).finish(),
            Compression::Gzip,
        )
        .layer(
            Tree::new().file("two", 0o644, mixed(1_500_000, 2)).finish(),
            Compression::Zstd,
        )
        .layer(many.finish(), Compression::Gzip)
        .build();
    registry.push_image("app", "1", &app);
    let place = Place::new();
    let (image, disk) = (place.scratch.join("disk.img"), place.scratch.folder("disk"));
    if let Err(reason) = crate::fixture::disk::make(&image, DISK) {
        skip!("{reason}");
    }
    let mount = "mount -o loop \"$0\" \"$1\" || exit 77; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", mount]).arg(&image).arg(&disk);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "full::fills_the_disk_that_it_is_given", "--nocapture"]);
    let names = ["base", "app"].map(|name| format!("{}:1", registry.reference(name)));
    command.env(
        "DUNLIN_TEST_FULL",
        format!("{}|{}|{}", disk.display(), names[0], names[1]),
    );
    command.env("DUNLIN_BIN", crate::fixture::cmd::dunlin());
    let out = command.output().unwrap();
    if out.status.code() == Some(77) {
        skip!("no loop mounts here");
    }
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(out.status.success(), "{text}");
    assert!(text.contains("refused in"), "{text}");
    println!("{text}");
}
