//! Where a runtime differs from what a case asserts, and may: runtime, assertion, why.
//!
//! crun is 1.8.1 and runc 1.1.5, as in Debian 12; dunlin is this tree. A line that no longer describes its runtime fails the suite.

const NEW: &str = "newer than this runtime: specification 1.1 or 1.2";
const ORDER: &str = "poststart hooks are run before the program is, as soon as the runtime can";
const LAX: &str = "config.json is read without this check, and what is wrong is passed over";
const PRIVATE: &str = "without rootfsPropagation crun makes every mount private at the end";

pub const ACCEPTED: &[(&str, &str, &str)] = &[
    ("crun", "versions: 1.2.0", "knows only versions that contain 1.0"),
    ("crun", "versions: 1.2.1", "knows only versions that contain 1.0"),
    ("crun", "further options: run --keep", "has no such option"),
    ("crun", "features: works", "has no such command yet"),
    ("crun", "events: --stats", "has no such command"),
    ("crun", "list: the table's columns", "its columns have other names"),
    (
        "crun",
        "spec: --rootless: mappings",
        "its template leaves the mappings to the runtime",
    ),
    (
        "crun",
        "ids: absolute",
        "takes any id as the name of a folder below its root",
    ),
    (
        "crun",
        "ids: space",
        "takes any id as the name of a folder below its root",
    ),
    (
        "crun",
        "kill: with an unknown signal",
        "a word that is no signal is signal 0",
    ),
    (
        "crun",
        "kill by name: `sigwinch`",
        "knows names in capitals only, and any other word is signal 0",
    ),
    (
        "crun",
        "kill by name: `term`",
        "knows names in capitals only, and any other word is signal 0",
    ),
    ("crun", "exec: options: --additional-gids", "has no such option"),
    (
        "crun",
        "exec: options: --cap: bounding",
        "takes the option for the whole set, runc adds it to the container's",
    ),
    (
        "crun",
        "exec: options: --cap: effective",
        "takes the option for the whole set, runc adds it to the container's",
    ),
    (
        "crun",
        "hooks refused: a time-out of nothing",
        "a time-out of 0 is none",
    ),
    ("crun", "hooks: poststart comes after startContainer", ORDER),
    (
        "crun",
        "hooks: startContainer: bundle",
        "says the working directory, which is the container's root by then",
    ),
    ("crun", "hooks: startContainer: status", "calls it `starting`"),
    ("crun", "ioPriority: the class is set", NEW),
    ("crun", "scheduler: nice", NEW),
    ("crun", "scheduler: policy", NEW),
    ("crun", "time namespace: runs", NEW),
    ("crun", "pause: resume of what runs", "is no error to crun"),
    (
        "crun",
        "pids without a limit: runs",
        "writes -1 as it stands, which v1 refuses",
    ),
    (
        "crun",
        "programs that cannot run: a folder: the message names it",
        "its message names no program",
    ),
    (
        "crun",
        "programs that cannot run: not executable: the message names it",
        "its message names no program",
    ),
    ("crun", "propagation of mounts: rshared", PRIVATE),
    ("crun", "propagation of mounts: rslave", PRIVATE),
    ("crun", "propagation of mounts: slave", PRIVATE),
    ("crun", "unbindable mount: shared", PRIVATE),
    ("crun", "unbindable mount: unbindable", PRIVATE),
    (
        "crun",
        "device that is a file already: it is refused",
        "leaves what is there without a look at its type",
    ),
    ("crun", "refused configurations: a field of the wrong type", LAX),
    ("crun", "refused configurations: a namespace twice", LAX),
    ("crun", "refused configurations: an rlimit twice", LAX),
    ("crun", "refused configurations: cwd is relative", LAX),
    ("crun", "refused configurations: environment is no list", LAX),
    ("crun", "refused configurations: hooks are no list", LAX),
    ("crun", "refused configurations: no args", LAX),
    ("crun", "refused configurations: unknown rootfs propagation", LAX),
    ("crun", "refused configurations: unknown type of device", LAX),
    (
        "crun",
        "symlinks in destinations: an absolute one that leads nowhere",
        "makes no folder where a symlink leads",
    ),
    (
        "crun",
        "symlinks in destinations: one that climbs, and leads nowhere",
        "makes no folder where a symlink leads",
    ),
    (
        "crun",
        "terminal without a socket: a socket without a terminal is refused",
        "passes over the socket",
    ),
    (
        "crun",
        "tmpfs: without a mode, that of the folder below",
        "leaves the mode to the kernel",
    ),
    ("runc", "versions: `2.0.0` is refused", "does not look at the version"),
    (
        "runc",
        "versions: `nonsense` is refused",
        "does not look at the version",
    ),
    ("runc", "versions: `` is refused", "does not look at the version"),
    (
        "runc",
        "exec: process file: umask",
        "the container's umask is for all its processes",
    ),
    (
        "runc",
        "hooks that fail: poststop: later hooks run",
        "the first poststop hook that fails ends them",
    ),
    ("runc", "hooks: at create, in order", ORDER),
    ("runc", "hooks: poststart comes after startContainer", ORDER),
    ("runc", "hooks: poststart: status", ORDER),
    ("runc", "idmapped mounts: the owner is shifted", NEW),
    ("runc", "ioPriority: the class is set", NEW),
    ("runc", "scheduler: nice", NEW),
    ("runc", "scheduler: policy", NEW),
    ("runc", "time namespace: runs", NEW),
    ("runc", "names: domainname", NEW),
    ("runc", "personality: LINUX32", NEW),
    ("runc", "refused configurations: unknown personality", NEW),
    ("runc", "refused configurations: an rlimit twice", LAX),
    (
        "runc",
        "device that is a file already: it is refused",
        "leaves what is there without a look at its type",
    ),
    (
        "runc",
        "rootfsPropagation shared: the root is shared",
        "binds the root after its parent was made private",
    ),
    (
        "runc",
        "rootfsPropagation unbindable: runs",
        "binds the root after it was made unbindable",
    ),
    (
        "runc",
        "user namespace by path: it is joined",
        "wants mappings, although the namespace has them",
    ),
];
