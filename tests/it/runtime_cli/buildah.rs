//! buildah's `RUN` with dunlin as its runtime, as root and as a user.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use super::bundle;
use crate::fixture::cmd::{Cmd, dunlin};
use crate::fixture::scratch::Scratch;
use crate::fixture::user::User;
use crate::skip;

const STEPS: &str = "FROM scratch
ADD image.tar /
RUN echo one >/made && mkdir -m 777 /open && id -u
USER 7:8
WORKDIR /tmp
ENV A=b
RUN test $(id -u):$(id -g) = 7:8 && test $A = b && test $(pwd) = /tmp && cat /made && echo two >/open/second
RUN [\"cat\", \"/made\", \"/open/second\"]
";

fn builds(user: Option<User>) -> Result<(), String> {
    if Cmd::new("which").arg("buildah").run().code != 0 {
        return Err("buildah is not installed".to_owned());
    }
    let scratch = match &user {
        Some(user) => Scratch::owned_by("buildah-user", user.uid()),
        None => Scratch::new("buildah-root"),
    };
    let runtime: PathBuf = scratch.join("dunlin-runtime");
    symlink(dunlin(), &runtime).unwrap();
    let (image, context) = (scratch.folder("image"), scratch.folder("context"));
    bundle::fill(&image);
    Cmd::new("tar")
        .arg("-C")
        .arg(&image)
        .arg("-cf")
        .arg(context.join("image.tar"))
        .arg(".")
        .ok();
    let steps = |name: &str, text: &str| {
        let path = context.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (good, bad) = (steps("good", STEPS), steps("bad", &format!("{STEPS}RUN exit 5\n")));
    if let Some(user) = &user {
        user.give(scratch.path());
    }
    let buildah = |args: &[&str]| {
        let cmd = Cmd::new("buildah")
            .arg("--root")
            .arg(scratch.join("root"))
            .arg("--runroot")
            .arg(scratch.join("run"))
            .args(["--storage-driver", "vfs"])
            .args(args)
            .timeout(Duration::from_secs(120));
        match &user {
            Some(user) => cmd.user(user),
            None => cmd,
        }
    };
    let build = |file: &PathBuf| {
        buildah(&[
            "build",
            "--isolation",
            "oci",
            "--network",
            "none",
            "--ulimit",
            "nofile=512:512",
            "-t",
            "built",
        ])
        .arg("--runtime")
        .arg(&runtime)
        .arg("-f")
        .arg(file)
        .arg(&context)
        .run()
    };
    let out = build(&good).expect(0);
    assert!(out.stdout.contains("\n0\n") || out.stdout.starts_with("0\n"), "{out:?}");
    assert!(out.stdout.contains("\"/open/second\"]\none\ntwo\n"), "{out:?}");
    let failed = build(&bad);
    assert!(
        failed.code != 0 && failed.stderr.contains("exit status 5"),
        "{failed:?}"
    );
    buildah(&["from", "--name", "work", "localhost/built"]).ok();
    let run = |script: &str| {
        buildah(&["run", "--isolation", "oci", "--network", "none"])
            .arg("--runtime")
            .arg(&runtime)
            .args(["work", "--", "sh", "-c", script])
    };
    assert_eq!(run("cat /open/second; exit 4").fails(4).stdout, "two\n");
    assert_eq!(run("echo $(id -u) $(pwd)").ok(), "7 /tmp");
    buildah(&["rm", "--all"]).ok();
    if user.is_some() {
        // Files of subordinate ids.
        buildah(&["rmi", "--all", "--force"]).run();
        buildah(&["unshare", "rm", "-rf"]).arg(scratch.join("root")).run();
    }
    Ok(())
}

#[test]
fn buildah_of_root_builds_with_dunlin() {
    if !super::is_root() {
        skip!("needs root");
    }
    if let Err(reason) = builds(None) {
        skip!("{reason}");
    }
}

#[test]
fn buildah_of_a_user_builds_with_dunlin() {
    let user = match User::with_ranges() {
        Ok(user) => user,
        Err(reason) => skip!("{reason}"),
    };
    if let Err(reason) = builds(Some(user)) {
        skip!("{reason}");
    }
}
