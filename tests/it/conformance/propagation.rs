//! config-linux.md: propagation of the root and of mounts.

use super::case::{Case, Checks, probe, scene};
use super::scene::{Scene, mount, until};
use super::seen::{MOUNTS, Seen};
use crate::fixture::cmd::Cmd;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

pub const CASES: &[Case] = &[
    probe(
        "propagation by default",
        |_, _| {},
        MOUNTS,
        |seen, checks| {
            checks.holds(
                "nothing is shared",
                !seen.mounts().iter().any(|mount| mount.propagates("shared")),
                seen.mount("/"),
            );
        },
    ),
    probe(
        "rootfsPropagation shared",
        |config, _| config["linux"]["rootfsPropagation"] = json!("shared"),
        MOUNTS,
        |seen, checks| {
            checks.holds(
                "the root is shared",
                seen.mount("/").propagates("shared"),
                seen.mount("/"),
            )
        },
    ),
    probe(
        "rootfsPropagation private",
        |config, _| config["linux"]["rootfsPropagation"] = json!("private"),
        MOUNTS,
        |seen, checks| checks.is("the root is private", seen.mount("/").propagation, Vec::<String>::new()),
    ),
    probe(
        "rootfsPropagation unbindable",
        |config, _| config["linux"]["rootfsPropagation"] = json!("unbindable"),
        MOUNTS,
        |seen, checks| {
            checks.holds(
                "the root is unbindable",
                seen.mount("/").propagates("unbindable"),
                seen.mount("/"),
            )
        },
    ),
    scene("propagation of mounts", of_mounts),
    scene("propagation into the container", inwards),
    probe(
        "unbindable mount",
        |config, bundle| {
            let source = bundle.join("source");
            fs::create_dir(&source).unwrap();
            mount(config, "/unbindable", "bind", &source, &["bind", "unbindable"]);
            mount(config, "/private", "tmpfs", "tmpfs", &["private"]);
            mount(config, "/shared", "tmpfs", "tmpfs", &["shared"]);
        },
        MOUNTS,
        |seen, checks| {
            checks.holds(
                "unbindable",
                seen.mount("/unbindable").propagates("unbindable"),
                seen.mount("/unbindable"),
            );
            checks.is("private", seen.mount("/private").propagation, Vec::<String>::new());
            checks.holds(
                "shared",
                seen.mount("/shared").propagates("shared"),
                seen.mount("/shared"),
            );
        },
    ),
];

/// A shared mount outside of the container.
fn shared(scene: &Scene<'_>) -> PathBuf {
    let path = scene.beside("shared");
    fs::create_dir(&path).unwrap();
    Cmd::new("/bin/mount").args(["-t", "tmpfs", "shared"]).arg(&path).ok();
    Cmd::new("/bin/mount").arg("--make-shared").arg(&path).ok();
    fs::create_dir(path.join("sub")).unwrap();
    path
}

fn of_mounts(scene: &mut Scene<'_>, checks: &Checks) {
    let source = shared(scene);
    for kind in ["rprivate", "rslave", "rshared", "private", "slave"] {
        mount(
            &mut scene.config,
            &format!("/{kind}"),
            "bind",
            &source,
            &["rbind", kind],
        );
    }
    let out = scene.run(MOUNTS);
    let seen = Seen::new(&out.stdout);
    for kind in ["rprivate", "private"] {
        checks.is(kind, seen.mount(&format!("/{kind}")).propagation, Vec::<String>::new());
    }
    for kind in ["rslave", "slave"] {
        let mount = seen.mount(&format!("/{kind}"));
        checks.holds(kind, mount.propagates("master") && !mount.propagates("shared"), mount);
    }
    checks.holds(
        "rshared",
        seen.mount("/rshared").propagates("shared"),
        seen.mount("/rshared"),
    );
}

fn inwards(scene: &mut Scene<'_>, checks: &Checks) {
    let source = shared(scene);
    mount(&mut scene.config, "/slave", "bind", &source, &["rbind", "rslave"]);
    mount(&mut scene.config, "/private", "bind", &source, &["rbind", "rprivate"]);
    scene.config["linux"]["rootfsPropagation"] = json!("rslave");
    scene.started("while :; do sleep 1; done");
    Cmd::new("/bin/mount")
        .args(["-t", "tmpfs", "later"])
        .arg(source.join("sub"))
        .ok();
    fs::write(source.join("sub/later"), "later").unwrap();
    let root = PathBuf::from(format!("/proc/{}/root", scene.pid()));
    let arrives = until(|| root.join("slave/sub/later").exists());
    checks.holds("a slave mount gets what is mounted later", arrives, &root);
    checks.holds(
        "a private one does not",
        !root.join("private/sub/later").exists(),
        &root,
    );
}
