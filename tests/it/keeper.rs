//! The keeper as a real process: who may start one, what it makes, what survives it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dunlin::disk::layout::Layout;
use dunlin::keeper::{self, Keeper, KeeperError};
use dunlin::runtime::cgroup::Tree;
use dunlin::sys::socket;

use crate::fixture::child::{Running, signal};
use crate::fixture::cmd::Cmd;
use crate::fixture::scratch::Scratch;
use crate::fixture::user::User;
use crate::skip;

const SHORT: Duration = Duration::from_secs(20);

/// A store in a scratch folder, which may belong to a user of the test.
struct Store {
    scratch: Scratch,
    layout: Layout,
    /// Control groups of its keepers: one that is killed leaves them.
    groups: std::cell::RefCell<Vec<PathBuf>>,
}

impl Store {
    fn new(user: Option<&User>) -> Store {
        let scratch = match user {
            Some(user) => Scratch::owned_by("keeper", user.uid()),
            None => Scratch::new("keeper"),
        };
        let layout = Layout::new(scratch.join("data"), scratch.join("run"));
        Store {
            scratch,
            layout,
            groups: Default::default(),
        }
    }

    fn command(&self, user: Option<&User>, more: &[&str]) -> Cmd {
        let command = user.map_or_else(Cmd::dunlin, User::dunlin);
        command
            .arg("keeper")
            .arg("--root")
            .arg(self.layout.data())
            .arg("--runroot")
            .arg(self.layout.run())
            .args(more)
    }

    /// A keeper in the foreground, serving.
    fn run(&self, user: Option<&User>, more: &[&str]) -> (Running, Keeper) {
        let mut running = self.command(user, more).start();
        let keeper = self.connect(&mut running);
        (running, keeper)
    }

    fn connect(&self, running: &mut Running) -> Keeper {
        let end = Instant::now() + SHORT;
        loop {
            match keeper::connect(&self.layout) {
                Ok(keeper) if keeper.info().pid == running.pid() as i32 => {
                    let roots = keeper.info().cgroup.roots().into_iter().map(PathBuf::from);
                    self.groups.borrow_mut().extend(roots);
                    return keeper;
                }
                Ok(_) | Err(KeeperError::NotRunning { .. } | KeeperError::Gone { .. }) => {}
                Err(error) => panic!("{error}\n{}", running.output()),
            }
            assert!(
                running.runs() && Instant::now() < end,
                "no keeper:\n{}",
                running.output()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for root in self.groups.borrow().iter().filter(|root| root.exists()) {
            let below = fs::read_dir(root)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path());
            for group in below.filter(|path| path.is_dir()).chain([root.clone()]) {
                // A worker may still be on its way out.
                let end = Instant::now() + Duration::from_secs(2);
                while fs::remove_dir(&group).is_err() && group.exists() && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

/// A worker that runs nothing but waits for its order; the socket is ours.
fn idle_worker(keeper: &mut Keeper) -> (i32, OwnedFd) {
    let (ours, theirs) = socket::pair().unwrap();
    let pid = keeper
        .start_worker(theirs.as_fd())
        .unwrap_or_else(|error| panic!("{error}"));
    (pid, ours)
}

fn status(pid: i32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':')
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn namespace(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/user")).unwrap()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + SHORT;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn maps_the_ranges_of_its_owner() {
    let user = match User::with_ranges() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let store = Store::new(Some(&user));
    let (_running, mut keeper) = store.run(Some(&user), &[]);
    let info = keeper.info().clone();
    assert_eq!((info.ids.uid, info.ids.note.as_deref()), (user.uid(), None));
    assert_eq!(info.ids.map.uids.len(), 2);
    let (worker, control) = idle_worker(&mut keeper);
    let map = fs::read_to_string(format!("/proc/{worker}/uid_map")).unwrap();
    let map: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(
        (&map[..3], map[3], map[5]),
        (&["0", &user.uid().to_string(), "1"][..], "1", "65536")
    );
    assert_ne!(namespace(worker), namespace(info.pid));
    assert_eq!(
        status(worker, "CapEff"),
        "000001ffffffffff",
        "all capabilities in the store's namespace"
    );
    assert_eq!(status(info.pid, "CapEff"), "0000000000000000", "none on the host");
    let (other, _control) = idle_worker(&mut keeper);
    assert_eq!(namespace(worker), namespace(other), "one namespace for the store");
    drop(control);
    assert_ne!(
        keeper.wait_worker(worker, SHORT).unwrap(),
        0,
        "a worker without an order fails"
    );
    assert_eq!(
        fs::metadata(store.layout.keeper_socket()).unwrap().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_user_without_ranges_has_one_id() {
    let user = match User::without_ranges() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let store = Store::new(Some(&user));
    let (_running, mut keeper) = store.run(Some(&user), &[]);
    assert!(keeper.info().ids.map.is_single());
    assert!(keeper.info().ids.note.as_deref().unwrap().contains("/etc/subuid"));
    let (worker, _control) = idle_worker(&mut keeper);
    assert_eq!(
        fs::read_to_string(format!("/proc/{worker}/setgroups")).unwrap().trim(),
        "deny"
    );
    assert_eq!(
        status(worker, "Uid").split(' ').next(),
        Some(user.uid().to_string().as_str())
    );
    assert!(
        matches!(keeper.info().cgroup, Tree::None { .. } | Tree::V2 { .. }),
        "v1 is not an ordinary user's"
    );
}

#[test]
fn strangers_are_refused() {
    let (owner, stranger) = match (User::without_ranges(), User::without_ranges()) {
        (Ok(owner), Ok(stranger)) => (owner, stranger),
        (Err(why), _) | (_, Err(why)) => skip!("{why}"),
    };
    let store = Store::new(Some(&owner));
    let (_running, _keeper) = store.run(Some(&owner), &[]);
    // Even where the folder's permissions let them through.
    let socket = store.layout.keeper_socket();
    for path in [store.scratch.path(), store.layout.run(), &socket] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let python = format!(
        "import socket\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.connect('{}')\nprint(s.recv(4096))",
        socket.display()
    );
    let said = Cmd::new("/usr/bin/python3").args(["-c", &python]).user(&stranger).ok();
    assert!(
        said.contains(&format!("serves user {} and root", owner.uid())),
        "{said}"
    );
    let taken = store.command(Some(&stranger), &[]).fails(125);
    taken.says(&["belongs to user"]);
}

#[test]
fn a_store_of_root_uses_a_range_and_real_groups() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        skip!("only root can");
    }
    let store = Store::new(None);
    let (mut running, mut keeper) = store.run(None, &["--idle-ms", "100"]);
    let info = keeper.info().clone();
    assert_ne!(info.ids.uid, 0);
    let (worker, control) = idle_worker(&mut keeper);
    assert_eq!(
        status(worker, "Uid"),
        [info.ids.uid.to_string().as_str(); 4].join(" "),
        "not the host's root"
    );
    assert_eq!(status(worker, "Groups"), "");
    let roots: Vec<PathBuf> = info.cgroup.roots().into_iter().map(PathBuf::from).collect();
    if roots.is_empty() {
        skip!("no control groups: {:?}", info.cgroup);
    }
    for root in &roots {
        let in_leaf = |leaf: &str, pid: i32| {
            let text = fs::read_to_string(root.join(leaf).join("cgroup.procs")).unwrap();
            text.lines().any(|line| line == pid.to_string())
        };
        assert!(
            in_leaf("keeper", info.pid) && in_leaf("workers", worker),
            "{}",
            root.display()
        );
        assert_eq!(
            fs::metadata(root).unwrap().uid(),
            info.ids.uid,
            "the monitors make groups in it"
        );
    }
    drop(control);
    drop(keeper);
    assert!(running.wait(SHORT).success(), "leaves when idle");
    assert!(roots.iter().all(|root| !root.exists()), "and takes its groups away");
    assert!(!store.layout.keeper_socket().exists());
}

#[test]
fn many_starters_start_one() {
    let user = match User::with_ranges() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let store = Store::new(Some(&user));
    let mut starters: Vec<Running> = (0..6)
        .map(|_| store.command(Some(&user), &["--start"]).start())
        .collect();
    for starter in &mut starters {
        let status = starter.wait(SHORT);
        assert!(status.success(), "{}", starter.output());
    }
    let keepers = || {
        user.processes()
            .into_iter()
            .filter(|(_, line)| line.contains("keeper --daemon"))
            .count()
    };
    assert_eq!(keepers(), 1, "{:?}", user.processes());
    let pid = keeper::connect(&store.layout).unwrap().info().pid;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(3)
        .unwrap()
        .to_owned();
    assert_ne!(
        session,
        fs::read_to_string("/proc/self/stat")
            .unwrap()
            .split_whitespace()
            .nth(5)
            .unwrap()
    );
    for number in 0..3 {
        assert_eq!(
            fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap(),
            PathBuf::from("/dev/null")
        );
    }
    keeper::connect(&store.layout).unwrap().shutdown(false).unwrap();
    until("it leaves", || keepers() == 0);
}

#[test]
fn a_start_that_fails_says_why() {
    let user = match User::with_ranges() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let store = Store::new(Some(&user));
    fs::create_dir(store.layout.run()).unwrap();
    // The run root is root's.
    store
        .command(Some(&user), &["--start"])
        .fails(125)
        .says(&["run root", "belongs to user 0"]);
}

#[test]
fn the_next_keeper_takes_over_from_a_killed_one() {
    let store = Store::new(None);
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        skip!("only root has groups of its own here");
    }
    let (mut first, mut keeper) = store.run(None, &[]);
    let before = keeper.info().clone();
    let (worker, control) = idle_worker(&mut keeper);
    first.kill();
    assert!(
        fs::metadata(format!("/proc/{worker}")).is_ok(),
        "what it started runs on"
    );
    let (mut second, keeper) = store.run(None, &["--idle-ms", "100"]);
    assert_eq!(keeper.info().cgroup, before.cgroup);
    assert_eq!(keeper.info().ids, before.ids);
    drop(control);
    until("the worker ends", || fs::metadata(format!("/proc/{worker}")).is_err());
    drop(keeper);
    assert!(second.wait(SHORT).success());
}

#[test]
fn reload_keeps_connections_and_workers() {
    let user = match User::with_ranges() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let store = Store::new(Some(&user));
    let (running, mut keeper) = store.run(Some(&user), &[]);
    let (worker, control) = idle_worker(&mut keeper);
    let own = namespace(worker);
    keeper.reload().unwrap();
    until("the new self", || {
        fs::read(format!("/proc/{}/cmdline", running.pid()))
            .unwrap()
            .windows(11)
            .any(|part| part == b"--resume-fd")
    });
    assert!(keeper.list().unwrap().is_empty(), "the same connection answers");
    let (other, _other) = idle_worker(&mut keeper);
    assert_eq!(namespace(other), own, "the same namespace");
    drop(control);
    assert_ne!(
        keeper.wait_worker(worker, SHORT).unwrap(),
        0,
        "a worker of the old self is reported"
    );
    signal(running.pid(), "HUP");
    std::thread::sleep(Duration::from_millis(50));
    let again = keeper::connect(&store.layout).unwrap();
    assert_eq!(again.info().pid, running.pid() as i32);
}

#[test]
fn only_one_serves_a_store_and_term_ends_it() {
    let user = match User::with_ranges() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let store = Store::new(Some(&user));
    let (mut running, _keeper) = store.run(Some(&user), &["--unit"]);
    // Whoever needed one has one; a second unit does not.
    store.command(Some(&user), &[]).ok();
    store
        .command(Some(&user), &["--unit"])
        .fails(125)
        .says(&["another keeper runs"]);
    running.signal("TERM");
    assert!(running.wait(SHORT).success());
    assert!(matches!(
        keeper::connect(&store.layout),
        Err(KeeperError::NotRunning { .. })
    ));
    store.scratch.assert_nothing_left(SHORT);
}

#[test]
fn nonsense_on_the_socket_is_answered() {
    let store = Store::new(None);
    let (_running, mut keeper) = store.run(None, &["--idle-ms", "100"]);
    let dir = fs::File::open(store.layout.run()).unwrap();
    let stranger = socket::connect_at(dir.as_fd(), "keeper.sock", SHORT).unwrap();
    for packet in [&[9, 0, 0][..], &[1], &[1, 0, 250], &[1, 0]] {
        socket::send(stranger.as_fd(), packet).unwrap();
        let mut reply = [0; 4096];
        let length = socket::recv(stranger.as_fd(), &mut reply).unwrap();
        let text = String::from_utf8_lossy(&reply[..length]);
        assert!(text.contains("protocol"), "{text}");
    }
    assert!(keeper.list().unwrap().is_empty(), "others are served on");
}
