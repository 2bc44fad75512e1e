//! The host's binary, as containers see it: overwritten by none of the ways that lead to it.

use super::{WAIT, await_that, bundles, count, is_root};
use crate::cli::{Who, World};
use crate::fixture::child::Running;
use crate::fixture::cmd::Cmd;
use crate::fixture::images::{Format, Index};
use crate::fixture::scratch::Scratch;
use crate::fixture::user::User;
use crate::runtime_cli::bundle::Bundle;
use crate::skip;
use dunlin::sys::mount::{self, attr};
use dunlin::sys::seal;
use nix::errno::Errno;
use serde_json::json;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Holds the binary of every process that is called as the runtime is, tries to write to it while the process runs and
/// after its end, up to the file `over`, and says what it got.
const WATCH: &str = r#"
while :; do
  for p in /proc/[0-9]*; do
    line=; { read -r line <$p/cmdline; } 2>/dev/null
    case $p:$line in /proc/1:*) continue ;; *self/exe*runtime*) ;; *) continue ;; esac
    {
      echo caught >>/out/log
      n=0
      while [ $n -lt 50 ]; do
        if { echo overwritten >/proc/self/fd/7; } 2>/dev/null; then echo won >>/out/log; fi
        if [ -e /out/over ]; then n=$((n+1)); fi
      done
      echo tried >>/out/log
    } 7<$p/exe
  done
done 2>/dev/null"#;

/// What the runtime is called with in the container: it waits for a reader of its log, which is a pipe.
const ARGS: [&str; 7] = ["runtime", "--log", "/out/pipe", "--root", "/tmp", "state", "none"];

/// The libraries of a binary that is not static.
fn with_libraries(bundle: &Bundle) {
    for name in ["lib", "lib64", "usr/lib"] {
        let source = Path::new("/").join(name);
        if source.is_dir() {
            fs::create_dir_all(bundle.path().join("rootfs").join(name)).unwrap();
            let options = ["rbind", "ro"];
            let mount = json!({"destination": &source, "type": "bind", "source": &source, "options": options});
            bundle.edit(|spec| spec["mounts"].as_array_mut().unwrap().push(mount));
        }
    }
}

/// Lets the caught process end, and the watcher try its luck after that.
fn release(mut victim: Running, out: &Path) {
    let log = out.join("log");
    await_that("the watcher holds the binary", || count(&log, "caught") > 0);
    let said = fs::read_to_string(out.join("pipe")).unwrap();
    assert!(said.contains("container does not exist"), "it was the runtime: {said}");
    victim.wait(WAIT);
    finish(out);
}

/// The process that was caught has ended.
fn finish(out: &Path) {
    let log = out.join("log");
    fs::write(out.join("over"), "").unwrap();
    await_that("the watcher has tried", || count(&log, "tried") > 0);
    assert_eq!(count(&log, "won"), 0, "the binary was overwritten");
    fs::remove_file(out.join("over")).unwrap();
    fs::remove_file(&log).unwrap();
}

#[test]
fn the_binary_cannot_be_overwritten_by_what_is_executed_through_it() {
    for bundle in bundles("hard-exe") {
        let mut bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        let program = bundle.own_program();
        let before = fs::read(&program).unwrap();
        with_libraries(&bundle);
        let out = bundle.share("out");
        nix::unistd::mkfifo(&out.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        fs::set_permissions(out.join("pipe"), fs::Permissions::from_mode(0o666)).unwrap();
        let script = bundle.path().join("rootfs/bin/script");
        fs::write(&script, "#!/proc/self/exe runtime\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        bundle.detach("hostile", WATCH);

        let direct = bundle
            .command(&["exec", "hostile", "/proc/self/exe"])
            .args(ARGS)
            .start();
        release(direct, &out);
        // The script's name is the verb then, which there is not: it has to be caught in the moment that this takes.
        await_that("the watcher holds the script's interpreter", || {
            let said = bundle.command(&["exec", "hostile", "script"]).run();
            assert!(said.stderr.contains("unrecognized subcommand"), "{said:?}");
            count(&out.join("log"), "caught") > 0
        });
        finish(&out);

        if bundle.is_roots() {
            // The first process of another container, which has this one's processes.
            let pid = bundle.state("hostile")["pid"].clone();
            bundle.edit(|spec| {
                let args: Vec<&str> = std::iter::once("/proc/self/exe").chain(ARGS).collect();
                spec["process"]["args"] = json!(args);
                let spaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
                spaces.retain(|space| space["type"] != "pid");
                spaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
            });
            bundle.place("victim");
            let first = bundle.command(&["run", "-b"]).arg(bundle.path()).arg("victim").start();
            release(first, &out);
        }
        bundle.command(&["delete", "-f", "hostile"]).ok();
        assert!(fs::read(&program).unwrap() == before, "the binary has changed");
    }
}

/// Why root cannot write to the binary of a process, apart from its being executed; nothing where it could.
fn write_error(pid: u64) -> Option<Errno> {
    nix::unistd::access(format!("/proc/{pid}/exe").as_str(), nix::unistd::AccessFlags::W_OK).err()
}

#[test]
fn a_first_process_that_waits_has_no_writable_binary() {
    for bundle in bundles("hard-waits") {
        let mut bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        bundle.own_program();
        let id = bundle.unique();
        bundle.command(&["create", "-b"]).arg(bundle.path()).arg(&id).ok();
        assert_eq!(
            write_error(bundle.state(&id)["pid"].as_u64().unwrap()),
            Some(Errno::EROFS)
        );
        bundle.command(&["delete", "-f", &id]).ok();
    }
}

#[test]
fn monitors_have_no_writable_binary() {
    let world = match World::new(Who::Root) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let id = world.sh("run -d", "sleep 100").ok();
    let pid: u64 = world.field(&id, "{{.State.Pid}}").parse().unwrap();
    assert_eq!(write_error(parent(pid)), Some(Errno::EROFS), "root's");
    assert_eq!(world.sh("run --rm", "echo it works").ok(), "it works");
}

#[test]
fn monitors_of_a_user_whose_binary_it_is_have_no_writable_one() {
    if !is_root() {
        skip!("needs root");
    }
    let user = match User::without_ranges() {
        Ok(user) => user,
        Err(reason) => skip!("{reason}"),
    };
    let program = user.home().join("dunlin");
    crate::fixture::cmd::copy_program(crate::fixture::cmd::dunlin(), &program);
    user.give(&program);
    let layout = Scratch::new("layout");
    Index::busybox(Format::Oci).write_layout(layout.path(), "latest");
    let dunlin = |words: &str| Cmd::new(&program).user(&user).args(words.split(' '));
    let image = dunlin("pull -q")
        .arg(format!("oci:{}:latest", layout.path().display()))
        .ok();
    let id = dunlin("run -d").arg(&image).args(["sleep", "100"]).ok();
    let pid = dunlin("inspect --format {{.State.Pid}}").arg(&id).ok().parse().unwrap();
    let error = write_error(parent(pid));
    // Its clean-up runs from the same binary.
    let short = dunlin("run --rm").arg(&image).args(["echo", "it works"]).ok();
    dunlin("rm -f -a -t 0").ok();
    assert_eq!((error, short.as_str()), (Some(Errno::EROFS), "it works"));
}

fn parent(pid: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn a_sealed_binary_cannot_be_made_writable_again() {
    if !is_root() {
        skip!("needs root");
    }
    let binary = seal::binary().unwrap();
    assert!(
        seal::is_exposed(binary.as_fd()).unwrap(),
        "root may write to the test's"
    );
    let mounted = seal::read_only_mount(binary.as_fd()).unwrap();
    assert!(!seal::is_exposed(mounted.as_fd()).unwrap());
    let error = mount::set_attrs(mounted.as_fd(), false, 0, attr::RDONLY).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(Errno::EINVAL as i32),
        "by who has every right here"
    );
    let copy = seal::copy_in_memory().unwrap();
    let written = nix::unistd::write(copy.as_fd(), b"x");
    assert_eq!(written, Err(Errno::EPERM), "nor a copy in memory");
}
