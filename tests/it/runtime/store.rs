//! The user namespace of a store, made as the keeper makes it, with a forked process of the test in it.

use crate::fixture::scratch::Scratch;
use crate::fixture::user::User;
use dunlin::sys::{creds, ns, process};
use dunlin::types::idmap::{Extent, IdMap};
use nix::unistd::{ForkResult, fork};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// First subordinate id of stores made here, and how many there are. No process or file of the machine has them.
const FIRST: u32 = 700_000;
const COUNT: u32 = 65_536;

/// Longest time that a body may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A store of somebody.
pub struct Store {
    map: IdMap,
    owner: u32,
    dir: PathBuf,
    // What is removed at the end.
    _user: Option<User>,
    _scratch: Scratch,
}

impl Store {
    /// Of an ordinary user with ranges of subordinate ids.
    pub fn of_user() -> Result<Store, String> {
        Store::of(User::without_ranges()?, true)
    }

    /// Of an ordinary user with one id.
    pub fn of_user_without_ranges() -> Result<Store, String> {
        Store::of(User::without_ranges()?, false)
    }

    /// Of root: its ids begin in the subordinate range.
    pub fn of_root() -> Result<Store, String> {
        if creds::effective_ids().0 != 0 {
            return Err("only root has such a store".to_owned());
        }
        let extents = vec![Extent {
            inside: 0,
            outside: FIRST,
            count: COUNT,
        }];
        let map = IdMap {
            uids: extents.clone(),
            gids: extents,
        };
        let scratch = Scratch::owned_by("store", FIRST);
        let dir = scratch.path().to_owned();
        Ok(Store {
            map,
            owner: 0,
            dir,
            _user: None,
            _scratch: scratch,
        })
    }

    fn of(user: User, ranges: bool) -> Result<Store, String> {
        let uid = user.uid();
        let mut map = IdMap::single(uid, uid);
        if ranges {
            let rest = Extent {
                inside: 1,
                outside: FIRST,
                count: COUNT - 1,
            };
            map.uids.push(rest);
            map.gids.push(rest);
        }
        let scratch = Scratch::owned_by("store", uid);
        let dir = scratch.path().to_owned();
        Ok(Store {
            map,
            owner: uid,
            dir,
            _user: Some(user),
            _scratch: scratch,
        })
    }

    /// Runs `body` as root of the store's user namespace, in a process of its own with one thread; its argument is the
    /// store. A panic in it is this test's.
    pub fn inside(&self, body: impl FnOnce(&Inside)) {
        let (mut told, tell) = pipe();
        let (mut ready, is_ready) = pipe();
        let (mut go, may_go) = pipe();
        // SAFETY: the child uses the allocator, which the C library makes usable after a fork, and no lock that another
        // thread of the harness may hold: it prints nothing and ends with `_exit`.
        let child = match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                drop((told, ready, may_go));
                self.be_inside(body, tell, is_ready, &mut go);
            }
        };
        drop((tell, is_ready, go));
        let pidfd = process::pidfd_open(child.as_raw()).expect("pidfd");
        let mut byte = [0];
        ready.read_exact(&mut byte).expect("the child makes its namespace");
        let lines = |extents: &[Extent]| {
            extents
                .iter()
                .map(|e| (e.inside, e.outside, e.count))
                .collect::<Vec<_>>()
        };
        ns::write_id_maps(
            child.as_raw(),
            &lines(&self.map.uids),
            &lines(&self.map.gids),
            self.map.is_single(),
        )
        .expect("root may map");
        let mut may_go = may_go;
        may_go.write_all(b"g").expect("the child waits");
        let ended = dunlin::sys::socket::wait_readable(pidfd.as_fd(), PATIENCE).expect("poll");
        if !ended {
            process::send_signal(pidfd.as_fd(), 9).expect("kill");
        }
        let status = process::wait(pidfd.as_fd()).expect("wait");
        let mut said = String::new();
        told.read_to_string(&mut said).expect("text");
        assert!(ended, "it took too long; {said}");
        assert_eq!(status, process::Ended::Code(0), "{said}");
    }

    fn be_inside(&self, body: impl FnOnce(&Inside), tell: File, mut is_ready: File, go: &mut File) -> ! {
        std::panic::set_hook(Box::new(move |info| {
            let _ = writeln!(&tell, "{info}");
        }));
        let work = || {
            process::set_parent_death_signal(9).expect("prctl");
            if self.owner != 0 {
                creds::become_user(self.owner, self.owner, &[]).expect("become the owner");
            }
            ns::unshare(ns::Namespaces::USER).expect("a user namespace");
            process::set_dumpable(true).expect("prctl");
            is_ready.write_all(b"r").expect("the parent listens");
            let mut byte = [0];
            go.read_exact(&mut byte).expect("the parent maps");
            creds::set_gid(0).expect("root's group");
            creds::set_uid(0).expect("root");
            if !self.map.is_single() {
                creds::set_groups(&[]).expect("no groups");
            }
            process::set_dumpable(true).expect("prctl");
            ns::unshare(ns::Namespaces::MOUNT).expect("a mount namespace");
            body(&Inside::new(self.dir.clone(), self.map.nested()));
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        process::exit_now(i32::from(outcome.is_err()))
    }
}

fn pipe() -> (File, File) {
    let (read, write): (OwnedFd, OwnedFd) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
    (read.into(), write.into())
}

/// A store seen by its own root.
pub struct Inside {
    pub dir: PathBuf,
    pub map: IdMap,
}

/// Applets of busybox that the image has.
const APPLETS: [&str; 32] = [
    "sh", "cat", "chmod", "cut", "df", "echo", "env", "false", "find", "grep", "head", "hostname", "id", "kill", "ln",
    "ls", "mkdir", "mknod", "mount", "ps", "pwd", "readlink", "rm", "sleep", "sort", "stat", "stty", "test", "touch",
    "true", "tty", "umount",
];

impl Inside {
    fn new(dir: PathBuf, map: IdMap) -> Inside {
        let inside = Inside { dir, map };
        if !inside.image().exists() {
            inside.make_image(&inside.image());
        }
        inside
    }

    /// The only layer: a busybox.
    pub fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    fn make_image(&self, root: &Path) {
        for dir in ["bin", "etc", "tmp", "data", "root", "home/app"] {
            fs::create_dir_all(root.join(dir)).expect("image");
        }
        crate::fixture::cmd::copy_program("/bin/busybox", &root.join("bin/busybox"));
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("link");
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
        fs::write(root.join("etc/passwd"), passwd).expect("passwd");
        fs::write(
            root.join("etc/group"),
            "root:x:0:\nwheel:x:10:root,app\napp:x:1000:\nmany:x:44:app\n",
        )
        .expect("group");
        fs::write(root.join("data/from-image"), "image\n").expect("file");
    }
}
