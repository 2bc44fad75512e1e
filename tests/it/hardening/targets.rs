//! Places in an image or in a volume that are links: nothing outside the root is mounted on or made.

use super::{CorePattern, bundles, is_root};
use crate::runtime_cli::bundle::Bundle;
use crate::skip;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const CORE: &str = CorePattern::PATH;

fn add_mount(bundle: &Bundle, mount: Value) {
    bundle.edit(|spec| spec["mounts"].as_array_mut().unwrap().push(mount));
}

/// A folder of the host that links lead to, which everybody may write to.
fn outside(bundle: &Bundle) -> PathBuf {
    let path = bundle.beside("outside");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    path
}

fn assert_untouched(outside: &Path, what: &str) {
    let found: Vec<PathBuf> = fs::read_dir(outside)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(found.is_empty(), "{what}: made outside: {found:?}");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let name = outside.to_str().unwrap();
    assert!(!table.contains(name), "{what}: mounted outside: {table}");
}

#[test]
fn links_in_destinations_make_nothing_outside() {
    for bundle in bundles("hard-links") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        let outside = outside(&bundle);
        let name = outside.to_str().unwrap();
        let up = format!("../../../../../../../../..{name}");
        let rootfs = bundle.path().join("rootfs");
        for (link, to) in [("all", name), ("up", &up), ("chain", "all"), ("host", "/proc/1/root")] {
            symlink(to, rootfs.join(link)).unwrap();
        }
        fs::write(bundle.path().join("file"), "content").unwrap();
        let places = [
            "/all",
            "/up",
            "/chain",
            "/all/new/deep",
            "/up/new",
            &format!("/../../../..{up}/new"),
            "/all/../x/new",
        ];
        for place in places {
            for mount in [
                json!({"destination": place, "type": "tmpfs", "source": "tmpfs"}),
                json!({"destination": format!("{place}/f"), "type": "bind", "source": "file", "options": ["bind"]}),
            ] {
                bundle.edit(|spec| spec["process"]["args"] = json!(["true"]));
                let before = fs::read(bundle.path().join("config.json")).unwrap();
                add_mount(&bundle, mount);
                bundle.run_once("one").expect(0);
                assert_untouched(&outside, place);
                fs::write(bundle.path().join("config.json"), before).unwrap();
            }
        }
        // A link of procfs's own kind is not followed at all.
        add_mount(
            &bundle,
            json!({"destination": format!("/host{name}/new"), "type": "tmpfs", "source": "tmpfs"}),
        );
        bundle.run_once("one").expect(1).says(&["/host"]);
        assert_untouched(&outside, "/host");
    }
}

#[test]
fn links_that_come_and_go_in_a_shared_volume_make_nothing_outside() {
    const ROUNDS: usize = 60;
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("hard-race");
    let (outside, volume) = (outside(&bundle), bundle.share("vol"));
    fs::write(bundle.path().join("file"), "content").unwrap();
    fs::create_dir(volume.join("a")).unwrap();
    add_mount(
        &bundle,
        json!({"destination": "/vol/a/b/c", "type": "tmpfs", "source": "tmpfs"}),
    );
    add_mount(
        &bundle,
        json!({"destination": "/vol/a/d/f", "type": "bind", "source": "file", "options": ["bind"]}),
    );
    bundle.edit(|spec| spec["process"]["args"] = json!(["true"]));
    // As another container would that has the volume too.
    let over = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (over, volume, outside) = (over.clone(), volume.clone(), outside.clone());
        std::thread::spawn(move || {
            let (a, link) = (volume.join("a"), volume.join("link"));
            symlink(&outside, &link).unwrap();
            let mut swaps = 0_u32;
            while !over.load(Ordering::Relaxed) {
                // Exchanged in one step: there is always an `a`, so the runtime never makes one between two steps.
                // A busy mount point of a container's does not hinder it: its mounts are not the host's.
                for _ in 0..2 {
                    renameat2(AT_FDCWD, &a, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).unwrap();
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
                let _ = fs::remove_dir_all(a.join("b"));
                let _ = fs::remove_dir_all(a.join("d"));
                swaps += 1;
            }
            swaps
        })
    };
    let mut ran = 0;
    for _ in 0..ROUNDS {
        ran += usize::from(bundle.run_once("one").code == 0);
        assert_untouched(&outside, "a race");
    }
    over.store(true, Ordering::Relaxed);
    let swaps = swapper.join().unwrap();
    assert!(ran > 0 && swaps > 100, "{ran} of {ROUNDS} ran, {swaps} swaps");
}

/// A bundle whose `/dev` is the image's own.
fn with_own_dev(bundle: &Bundle) {
    bundle.edit(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/dev");
        spec["process"]["args"] = json!(["sh", "-c", "echo hacked >/proc/sys/kernel/core_pattern"]);
    });
}

/// Puts something where the null device belongs.
type Maker = fn(&Path);

#[test]
fn a_null_device_that_is_none_hides_nothing() {
    for bundle in bundles("hard-null") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        with_own_dev(&bundle);
        let null = bundle.path().join("rootfs/dev/null");
        let core = CorePattern::watch();
        let makers: [(&str, Maker); 4] = [
            ("a link to a setting", |null| symlink(CORE, null).unwrap()),
            ("a link to a file", |null| symlink("/etc/passwd", null).unwrap()),
            ("a folder", |null| fs::create_dir(null).unwrap()),
            ("a loop", |null| symlink("null", null).unwrap()),
        ];
        for (name, make) in makers {
            make(&null);
            let out = bundle.run_once("one");
            assert!(out.code == 1 && out.stderr.contains("/dev/null"), "{name}: {out:?}");
            fs::remove_file(&null).or_else(|_| fs::remove_dir(&null)).unwrap();
        }
        core.assert_untouched("through the null device");
    }
}

#[test]
fn a_console_that_is_a_link_is_refused() {
    for bundle in bundles("hard-console") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        with_own_dev(&bundle);
        bundle.edit(|spec| spec["process"]["terminal"] = json!(true));
        let dev = bundle.path().join("rootfs/dev");
        fs::create_dir_all(bundle.path().join("rootfs/other")).unwrap();
        let socket = bundle.beside("console.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
        for (name, to) in [
            ("console", CORE),
            ("console", "/etc/new"),
            ("pts", "/other"),
            ("pts", "/proc/sys/net"),
        ] {
            let _ = fs::remove_dir_all(dev.join(name)).or_else(|_| fs::remove_file(dev.join(name)));
            symlink(to, dev.join(name)).unwrap();
            bundle.place("one");
            let create = bundle.command(&["create", "-b"]).arg(bundle.path());
            let out = create.arg("--console-socket").arg(&socket).arg("one").run();
            let named = out.stderr.contains("/dev/console") || out.stderr.contains("/dev/pts");
            assert!(out.code == 1 && named, "{name} to {to}: {out:?}");
            assert!(
                !bundle.path().join("rootfs/etc/new").exists(),
                "made where the link leads"
            );
            fs::remove_file(dev.join(name)).unwrap();
        }
    }
}

#[test]
fn a_masked_path_that_is_a_link_is_masked_where_it_leads() {
    for bundle in bundles("hard-mask") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        let rootfs = bundle.path().join("rootfs");
        fs::write(rootfs.join("etc/secret"), "secret").unwrap();
        fs::create_dir(rootfs.join("etc/folder")).unwrap();
        fs::write(rootfs.join("etc/folder/secret"), "secret").unwrap();
        symlink("etc/secret", rootfs.join("one")).unwrap();
        symlink("/etc/folder", rootfs.join("two")).unwrap();
        bundle.edit(|spec| {
            let masked = spec["linux"]["maskedPaths"].as_array_mut().unwrap();
            masked.extend([json!("/one"), json!("/two")]);
            let script = "cat /etc/secret /one; ls -A /etc/folder /two/; echo x >/two/new || echo refused";
            spec["process"]["args"] = json!(["sh", "-c", script]);
        });
        let said = bundle.run_once("m").stdout;
        assert!(!said.contains("secret") && said.contains("refused"), "{said}");
        assert_eq!(
            fs::read_dir(rootfs.join("etc/folder")).unwrap().count(),
            1,
            "nothing is made below the mask"
        );
    }
}
