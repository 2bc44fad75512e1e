//! The runtime core on the real kernel: containers of an ordinary user with ranges, of one without, and of root.

mod container;
mod store;

use crate::skip;
use container::{Container, Output, bind, end, script};
use dunlin::runtime::error::RuntimeError;
use dunlin::runtime::launch::{Rootfs, Stdio};
use dunlin::sys::process;
use dunlin::sys::tty::WindowSize;
use dunlin::types::container::{ContainerSpec, Mount, MountSource, Network, Seccomp};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use store::{Inside, Store};

/// The store or the end of the test.
macro_rules! store {
    ($made:expr) => {
        match $made {
            Ok(store) => store,
            Err(reason) => skip!("{reason}"),
        }
    };
}

fn nothing(_: &mut ContainerSpec) {}

/// `NAME value` lines of a script's output.
fn values(output: &Output) -> BTreeMap<String, String> {
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{}", output.stdout);
    let line = |line: &str| {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), value.trim().to_owned())
    };
    output.stdout.lines().map(line).collect()
}

const KINDS: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"];

fn namespaces(inside: &Inside, change: impl FnOnce(&mut ContainerSpec)) -> BTreeMap<String, String> {
    let text = "for kind in user mnt pid ipc uts net cgroup; do echo $kind $(readlink /proc/self/ns/$kind); done";
    values(&inside.run(text, change))
}

fn own_namespace(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}"))
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

fn a_whole_container(inside: &Inside) {
    let seen = namespaces(inside, nothing);
    for kind in KINDS {
        assert_ne!(seen[kind], own_namespace(kind), "{kind}");
    }
    let text = r#"
        echo pid $$
        echo host $(hostname)
        echo user $(id -u):$(id -g)
        echo home $HOME
        echo pwd $(pwd)
        echo umask $(umask)
        echo fds $(for fd in /proc/self/fd/*; do readlink $fd >/dev/null && echo ${fd##*/}; done)
        grep -E '^(Cap|NoNewPrivs|Seccomp:|Sig(Ign|Blk)|NSsid)' /proc/self/status | while read name value; do echo $name $value; done
        echo lo $(cat /sys/class/net/lo/flags)
        echo nets $(ls /sys/class/net)
        echo dev $(ls /dev | sort)
        echo hidden $(cat /proc/kcore /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c)
        echo firmware $(ls /sys/firmware 2>&1)
        echo ping $(cat /proc/sys/net/ipv4/ping_group_range)
        echo random $(head -c 4 /dev/urandom | wc -c)
        (echo x >/proc/sys/kernel/domainname) 2>/dev/null && echo sys written
        (echo x >/sys/kernel/x) 2>/dev/null && echo sysfs written
        (mkdir /sys/fs/cgroup/x) 2>/dev/null && echo cgroup written
        mount -t tmpfs x /tmp 2>/dev/null && echo mount worked
        echo x >/dev/null && echo x >/dev/shm/x && echo x >/etc/new && echo written all
        cat /etc/hosts | while read address name more; do echo hosts-$address $name; done
        echo hostname $(cat /etc/hostname)
    "#;
    let seen = values(&inside.run(text.replace("wc -c", "busybox wc -c").as_str(), nothing));
    let is = |name: &str, value: &str| assert_eq!(seen.get(name).map(String::as_str), Some(value), "{name}: {seen:#?}");
    is("pid", "1");
    is("user", "0:0");
    is("home", "/root");
    is("pwd", "/");
    is("umask", "0022");
    is("fds", "0 1 2");
    let default_caps = "00000000800405fb";
    for set in ["CapBnd:", "CapEff:", "CapPrm:"] {
        is(set, default_caps);
    }
    for set in ["CapInh:", "CapAmb:", "SigIgn:", "SigBlk:"] {
        is(set, "0000000000000000");
    }
    is("NoNewPrivs:", "1");
    is("Seccomp:", "2");
    is("NSsid:", "1");
    is("lo", "0x9");
    is("nets", "lo");
    is(
        "dev",
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
    );
    is("hidden", "0");
    is("firmware", "");
    is("ping", "0 0");
    is("random", "4");
    is("written", "all");
    for refused in ["sys", "sysfs", "cgroup", "mount"] {
        assert!(!seen.contains_key(refused), "{refused}");
    }
    is("hosts-127.0.0.1", &seen["host"]);
    is("hostname", &seen["host"]);
}

#[test]
fn an_ordinary_users_container_has_what_it_should_and_no_more() {
    store!(Store::of_user()).inside(a_whole_container);
}

#[test]
fn a_container_of_roots_store_has_what_it_should_and_no_more() {
    store!(Store::of_root()).inside(a_whole_container);
}

#[test]
fn a_user_without_ranges_has_containers_of_root_only() {
    store!(Store::of_user_without_ranges()).inside(|inside| {
        a_whole_container(inside);
        let error = inside.container(|spec| spec.user = "app".to_owned()).run().unwrap_err();
        assert!(
            matches!(&error, RuntimeError::UnmappedUser { uid: 1000, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("/etc/subuid"), "{error}");
        let out = inside.run("id -G; mount | grep devpts; cat /proc/self/setgroups", nothing);
        assert!(
            out.stdout.contains("mode=620") && !out.stdout.contains("gid="),
            "{}",
            out.stdout
        );
        assert!(out.stdout.ends_with("deny\n"), "{}", out.stdout);
    });
}

#[test]
fn the_hosts_network_comes_with_the_hosts_sysfs_read_only() {
    store!(Store::of_user()).inside(|inside| {
        let host = |spec: &mut ContainerSpec| spec.network = Network::Host;
        let seen = namespaces(inside, host);
        assert_eq!(seen["net"], own_namespace("net"));
        assert_ne!(seen["uts"], own_namespace("uts"));
        let text = "grep ' /sys' /proc/self/mountinfo | grep -cv ' ro,'; ls /sys/class/net | grep -c .; ls /sys/firmware; \
                    test -e /etc/resolv.conf && echo resolv; echo $(hostname)";
        let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let interfaces = fs::read_dir("/sys/class/net").unwrap().filter_map(Result::ok).filter(|e| e.path().is_dir()).count();
        assert_eq!(inside.run(text, host).stdout, format!("0\n{interfaces}\nresolv\n{own}"));
    });
}

#[test]
fn users_are_looked_up_in_the_image() {
    store!(Store::of_user()).inside(|inside| {
        let cases = [
            ("", "0:0 0 10 /root"),
            ("app", "1000:1000 10 44 1000 /home/app"),
            ("1000", "1000:1000 10 44 1000 /home/app"),
            ("app:wheel", "1000:10 10 /home/app"),
            ("1234:4321", "1234:4321 4321 /"),
        ];
        for (user, expected) in cases {
            let text = "echo $(id -u):$(id -g) $(id -G | busybox tr ' ' '\\n' | sort -n) $HOME";
            let out = inside.run(text, |spec| spec.user = user.to_owned());
            assert_eq!(out.stdout.trim(), expected, "{user}: {}", out.stderr);
        }
        for (user, text) in [
            ("kim", "unable to find user kim: no matching entries in passwd file"),
            (
                "app:staff",
                "unable to find group staff: no matching entries in group file",
            ),
            ("70000", "user 70000:0 is not in this store's range of ids"),
        ] {
            let error = inside.container(|spec| spec.user = user.to_owned()).run().unwrap_err();
            assert!(error.to_string().starts_with(text), "{error}");
            let code = if text.starts_with("unable") { 126 } else { 125 };
            assert_eq!(error.exit_code(), code, "{text}");
        }
    });
}

#[test]
fn users_have_the_capabilities_that_podman_gives_them() {
    store!(Store::of_user()).inside(|inside| {
        let text = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | busybox tr '\\t' ' '";
        let none = "0000000000000000";
        let default = "00000000800405fb";
        let raw = "0000000000002000";
        let with_raw = "00000000800425fb";
        // User, added capability, no_new_privs, filter; inheritable, permitted, effective, bounding, ambient.
        let cases = [
            ("", "", true, true, [none, default, default, default, none]),
            ("", "", false, true, [none, default, default, default, none]),
            ("", "", false, false, [none, default, default, default, none]),
            ("app", "", true, true, [none, none, none, default, none]),
            ("app", "", false, true, [none, none, none, default, none]),
            ("app", "CAP_NET_RAW", false, true, [raw, raw, raw, with_raw, raw]),
            ("app", "CAP_NET_RAW", true, true, [raw, raw, raw, with_raw, raw]),
        ];
        for (user, added, nnp, filter, sets) in cases {
            let out = inside.run(text, |spec| {
                spec.user = user.to_owned();
                spec.no_new_privs = nnp;
                spec.capabilities.extend((!added.is_empty()).then(|| added.to_owned()));
                spec.seccomp = if filter { Seccomp::Default } else { Seccomp::Unconfined };
            });
            let expected = format!(
                "CapInh: {}\nCapPrm: {}\nCapEff: {}\nCapBnd: {}\nCapAmb: {}\nNoNewPrivs: {}\nSeccomp: {}\n",
                sets[0],
                sets[1],
                sets[2],
                sets[3],
                sets[4],
                u8::from(nnp),
                if filter { 2 } else { 0 }
            );
            assert_eq!(out.stdout, expected, "{user} {added} {nnp} {filter}: {}", out.stderr);
        }
    });
}

#[test]
fn exit_codes_and_errors_are_podmans() {
    store!(Store::of_user()).inside(|inside| {
        let run = |args: &[&str], change: fn(&mut ContainerSpec)| {
            let own: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
            let container = inside.container(|spec| {
                spec.args = own;
                change(spec);
            });
            container
                .run()
                .map(|output| output.code)
                .map_err(|error| (error.exit_code(), error.to_string()))
        };
        let image = inside.image();
        fs::write(image.join("bin/script"), "#!/nowhere/interpreter\n").unwrap();
        fs::write(image.join("bin/garbage"), "\x01\x02\x03").unwrap();
        for name in ["script", "garbage"] {
            fs::set_permissions(image.join("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir(image.join("closed")).unwrap();
        fs::set_permissions(image.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        for (args, code) in [
            (&["true"][..], 0),
            (&["false"], 1),
            (&["sh", "-c", "exit 42"], 42),
            (&["sh", "-c", "kill -9 $$"], 137),
        ] {
            // The first process of a pid namespace ignores signals of its own.
            let args: Vec<&str> = if code == 137 {
                vec!["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]
            } else {
                args.to_vec()
            };
            assert_eq!(run(&args, nothing), Ok(code), "{args:?}");
        }
        #[allow(clippy::type_complexity)]
        let failing: [(&[&str], fn(&mut ContainerSpec), u8, &str); 8] = [
            (
                &["nope"],
                nothing,
                127,
                "executable file `nope` not found in $PATH: No such file or directory",
            ),
            (
                &["/bin/nope"],
                nothing,
                127,
                "executable file `/bin/nope` not found: No such file or directory",
            ),
            (&["script"], nothing, 127, "exec `script`: No such file or directory"),
            (&["garbage"], nothing, 126, "exec `garbage`: Exec format error"),
            (&["/etc/passwd"], nothing, 126, "exec `/etc/passwd`: Permission denied"),
            (&["/bin"], nothing, 126, "exec `/bin`: Is a directory"),
            (
                &["true"],
                |spec| spec.workdir = "/etc/passwd".to_owned(),
                126,
                "chdir to `/etc/passwd`: Not a directory",
            ),
            (
                &[],
                nothing,
                125,
                "config.json: `process.args`: is empty; give a command or use an image that has one",
            ),
        ];
        for (args, change, code, text) in failing {
            assert_eq!(run(args, change), Err((code, text.to_owned())), "{args:?}");
        }
        let app = run(&["true"], |spec| {
            spec.user = "app".to_owned();
            spec.workdir = "/closed".to_owned();
        });
        assert_eq!(app, Ok(0), "root may enter what the user may not, as in runc");
    });
}

#[test]
fn a_missing_working_directory_is_made_and_belongs_to_the_user() {
    store!(Store::of_user()).inside(|inside| {
        let out = inside.run("pwd; stat -c %u:%g .; touch here", |spec| {
            spec.workdir = "/srv/a/b".to_owned();
            spec.user = "app".to_owned();
            spec.read_only = false;
        });
        assert_eq!(out.stdout, "/srv/a/b\n1000:1000\n", "{}", out.stderr);
    });
}

#[test]
fn mounts_of_the_user_are_as_asked() {
    store!(Store::of_user()).inside(|inside| {
        let host = inside.dir.join("host");
        fs::create_dir_all(host.join("sub")).unwrap();
        fs::write(host.join("file"), "from the host\n").unwrap();
        let tmpfs = |target: &str, options: &[&str]| Mount {
            source: MountSource::Tmpfs,
            target: target.to_owned(),
            read_only: false,
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        let mounts = vec![
            bind(&host, "/mnt/rw", &[]),
            Mount { read_only: true, ..bind(&host, "/mnt/ro", &["exec"]) },
            bind(&host.join("file"), "/mnt/one/file", &[]),
            tmpfs("/data", &["size=1m", "mode=1777"]),
            tmpfs("/empty", &["notmpcopyup", "ro"]),
        ];
        let text = r#"
            echo rw $(cat /mnt/rw/file) && echo new >/mnt/rw/new
            echo ro $(cat /mnt/ro/file); (echo x >/mnt/ro/x) 2>/dev/null || echo ro-refused yes
            echo one $(cat /mnt/one/file)
            echo copied $(cat /data/from-image); echo x >/data/x && echo data writable
            (echo x >/empty/x) 2>/dev/null || echo empty-refused yes
            (echo x >/new) 2>/dev/null || echo root-refused yes
            grep -E ' (/mnt/rw|/mnt/ro|/data) ' /proc/self/mountinfo | while read a b c d point options rest; do echo $point $options; done
        "#;
        let out = inside.run(text, |spec| {
            spec.mounts = mounts.clone();
            spec.read_only = true;
        });
        let seen = values(&out);
        let expected = [
            ("rw", "from the host"),
            ("ro", "from the host"),
            ("ro-refused", "yes"),
            ("one", "from the host"),
            ("copied", "image"),
            ("data", "writable"),
            ("empty-refused", "yes"),
            ("root-refused", "yes"),
            ("/mnt/rw", "rw,nosuid,nodev,relatime"),
            ("/mnt/ro", "ro,nosuid,nodev,relatime"),
            ("/data", "rw,nosuid,nodev,noexec,relatime"),
        ];
        for (name, value) in expected {
            assert_eq!(seen.get(name).map(String::as_str), Some(value), "{name}: {seen:#?}");
        }
        assert_eq!(fs::read_to_string(host.join("new")).unwrap(), "new\n");
        assert_eq!(fs::read_to_string(inside.image().join("data/from-image")).unwrap(), "image\n");
        let missing = inside.container(|spec| spec.mounts = vec![bind(Path::new("/nowhere/at/all"), "/x", &[])]).run();
        let text = "open `/nowhere/at/all` on the host to bind it to `/x`: No such file or directory; make it first";
        assert_eq!(missing.unwrap_err().to_string(), text);
    });
}

#[test]
fn links_in_an_image_lead_no_mount_out_of_the_root() {
    store!(Store::of_user()).inside(|inside| {
        let outside = inside.dir.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "precious\n").unwrap();
        let hostile = inside.dir.join("hostile");
        fs::create_dir_all(hostile.join("etc")).unwrap();
        let up = "../".repeat(20);
        let away = outside.display();
        let links = [
            ("abs", format!("{away}")),
            ("up", format!("{up}{}", away.to_string().trim_start_matches('/'))),
            ("etc/hosts", format!("{away}/precious")),
            ("etc/resolv.conf", "../run/resolve/stub.conf".to_owned()),
            ("data", format!("{away}")),
        ];
        for (name, target) in links {
            symlink(target, hostile.join(name)).unwrap();
        }
        let mut container = inside.container(|spec| {
            script("grep -c . /etc/hosts; ls /etc; cat /abs/a/from")(spec);
            spec.network = Network::Host;
            spec.mounts = vec![
                bind(&inside.image().join("etc"), "/abs/a", &[]),
                bind(&inside.image().join("etc"), "/up/b", &[]),
                Mount {
                    source: MountSource::Tmpfs,
                    target: "/data/c".into(),
                    read_only: false,
                    options: vec![],
                },
            ];
        });
        fs::write(inside.image().join("etc/from"), "from\n").unwrap();
        layered(&mut container, &[&hostile]);
        let out = container.run().unwrap();
        assert!(out.stdout.ends_with("from\n"), "{out:?}");
        let left: Vec<_> = fs::read_dir(&outside)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["precious"], "nothing was made outside");
        assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "precious\n");

        // A /proc or /sys that is a link would put what is hidden in it somewhere else.
        for (name, kind) in [("proc", "/proc"), ("sys", "/sys"), ("dev/pts", "/dev/pts")] {
            let linked = inside.dir.join(format!("linked-{}", name.replace('/', "-")));
            fs::create_dir_all(linked.join(name).parent().unwrap()).unwrap();
            symlink("/tmp", linked.join(name)).unwrap();
            let mut container = inside.container(script("true"));
            layered(&mut container, &[&linked]);
            match (kind, container.run()) {
                // /dev is a new tmpfs: nothing of the image is there.
                ("/dev/pts", done) => assert_eq!(done.unwrap().code, 0),
                (_, done) => {
                    let error = done.unwrap_err();
                    let text = format!("make `{kind}` in the container's root file system: ");
                    assert!(error.to_string().starts_with(&text), "{error}");
                }
            }
        }
    });
}

/// Puts layers on top of the image.
fn layered(container: &mut Container<'_>, above: &[&Path]) {
    if let Rootfs::Overlay { lowers, .. } = &mut container.rootfs {
        for layer in above {
            lowers.insert(0, layer.to_path_buf());
        }
    }
}

#[test]
fn many_layers_with_long_names_are_mounted() {
    store!(Store::of_user()).inside(|inside| {
        let mut container = inside.container(script("cat /layer; ls / | grep -c in-"));
        let mut above = Vec::new();
        for number in 0..126 {
            let layer = inside.dir.join(format!("{number:0200}"));
            fs::create_dir(&layer).unwrap();
            fs::write(layer.join("layer"), format!("{number}\n")).unwrap();
            fs::write(layer.join(format!("in-{number}")), "").unwrap();
            above.push(layer);
        }
        let above: Vec<&Path> = above.iter().map(|layer| layer.as_path()).collect();
        layered(&mut container, &above);
        assert_eq!(container.run().unwrap().stdout, "125\n126\n");
    });
}

#[test]
fn a_flat_root_works_like_an_overlay() {
    store!(Store::of_user()).inside(|inside| {
        let mut container = inside.container(script(
            "echo new >/new; mount | grep -c overlay; ls /proc/1/root/bin/sh",
        ));
        container.rootfs = Rootfs::Flat(inside.image());
        let out = container.run().unwrap();
        assert_eq!(out.stdout, "0\n/proc/1/root/bin/sh\n", "{}", out.stderr);
        assert_eq!(fs::read_to_string(inside.image().join("new")).unwrap(), "new\n");
    });
}

#[test]
fn nothing_of_the_host_is_mounted_or_open_in_a_container() {
    store!(Store::of_user()).inside(|inside| {
        let held = File::open("/etc/passwd").unwrap();
        // Without the flag, as a careless caller would leave it.
        process::place(held.as_fd(), 50, false).unwrap();
        let text = "cat /proc/self/mountinfo; for fd in /proc/1/fd/*; do readlink $fd; done";
        let out = inside.run(text, nothing);
        let store = inside.dir.to_string_lossy().into_owned();
        let bundle_file = |line: &str| ["/etc/hosts", "/etc/hostname"].iter().any(|file| line.contains(file));
        for line in out.stdout.lines().filter(|line| !bundle_file(line)) {
            // The files that standard output and error go to are the test's own.
            let is_stream = line.starts_with('/') && (line.contains("/out") || line.contains("/err"));
            assert!(is_stream || !line.contains(&store), "{line}");
        }
        assert!(!out.stdout.contains("/etc/passwd"), "{}", out.stdout);
    });
}

#[test]
fn pipes_belong_to_the_containers_user() {
    store!(Store::of_user()).inside(|inside| {
        let (mut read, write) = std::io::pipe().unwrap();
        let container = inside.container(|spec| {
            script("echo one; echo two >/dev/stdout; stat -L -c %u /dev/stdout; cat")(spec);
            spec.user = "app".to_owned();
        });
        let (stdin, mut input) = std::io::pipe().unwrap();
        let stdio = Stdio::Streams {
            stdin: Some(stdin.into()),
            stdout: Some(write.into()),
            stderr: None,
        };
        let mut created = container.create(stdio).unwrap();
        created.start().unwrap();
        input.write_all(b"three\n").unwrap();
        drop(input);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n1000\nthree\n");
        assert_eq!(end(created.pidfd.as_fd()), 0);
    });
}

/// Reads a terminal until its other end is closed.
fn read_all(console: OwnedFd) -> String {
    let mut console = File::from(console);
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    // A master whose other end is gone says EIO.
    while let Ok(length @ 1..) = console.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
}

#[test]
fn a_terminal_is_the_containers_own() {
    store!(Store::of_user()).inside(|inside| {
        let text = "tty; stty size; stat -c %u:%g $(tty); test -c /dev/console && echo console; \
                    echo to the console >/dev/console; readlink /proc/self/fd/0; read line; echo got $line; \
                    cut -d' ' -f5,6,7 /proc/self/stat";
        let container = inside.container(|spec| {
            script(text)(spec);
            spec.tty = true;
            spec.user = "app".to_owned();
        });
        let size = Some(WindowSize { rows: 33, cols: 111 });
        let mut created = container.create(Stdio::Terminal { size }).unwrap();
        created.start().unwrap();
        let console = created.console.take().unwrap();
        let mut input = File::from(console.try_clone().unwrap());
        input.write_all(b"hello\n").unwrap();
        let said = read_all(console);
        let lines: Vec<&str> = said.lines().filter(|line| *line != "hello").collect();
        // The session is the container's, and the terminal controls it (34816 is device 136:0).
        let expected = [
            "/dev/pts/0",
            "33 111",
            "1000:5",
            "console",
            "to the console",
            "/dev/pts/0",
            "got hello",
            "1 1 34816",
        ];
        // cut runs in a process group of its own only in interactive shells.
        assert_eq!(lines[..7], expected[..7], "{said}");
        let last: Vec<&str> = lines[7].split(' ').collect();
        assert_eq!((last[1], last[2]), ("1", "34816"), "{said}");
        assert_eq!(end(created.pidfd.as_fd()), 0);
    });
}

#[test]
fn a_process_can_join_with_everything_that_the_container_has() {
    store!(Store::of_user()).inside(|inside| {
        let container = inside.container(script("echo ready; while :; do sleep 1; done"));
        let running = container.start().unwrap();
        running.wait_for("ready");
        let ns = "for kind in user mnt pid ipc uts net cgroup; do readlink /proc/$1/ns/$kind; done";
        let of = |pid: &str| running.exec(&["sh", "-c", ns, "sh", pid], None).unwrap().stdout;
        assert_eq!(of("self"), of("1"));
        let text = "grep -E '^(Cap|NoNewPrivs|Seccomp:|SigBlk)' /proc/$1/status; readlink /proc/$1/root; readlink /proc/$1/cwd";
        let of = |pid: &str| running.exec(&["sh", "-c", text, "sh", pid], None).unwrap().stdout;
        assert_eq!(of("self"), of("1"));
        let fds = "echo $(for fd in /proc/self/fd/*; do readlink $fd >/dev/null && echo ${fd##*/}; done); cut -d' ' -f6 /proc/self/stat; echo $$";
        let out = running.exec(&["sh", "-c", fds], None).unwrap();
        let lines: Vec<&str> = out.stdout.lines().collect();
        assert_eq!(lines[0], "0 1 2");
        assert_eq!(lines[1], lines[2], "it leads a session");
        let id = "echo $(id -u):$(id -g) $HOME; grep CapEff /proc/self/status";
        let out = running.exec(&["sh", "-c", id], Some("app")).unwrap();
        assert_eq!(out.stdout, "1000:1000 /home/app\nCapEff:\t0000000000000000\n");
        assert_eq!(running.exec(&["sh", "-c", "exit 7"], None).unwrap().code, 7);
        for (args, user, code, text) in [
            (&["nope"][..], None, 127, "executable file `nope` not found in $PATH: No such file or directory"),
            (&["/etc/passwd"], None, 126, "exec `/etc/passwd`: Permission denied"),
            (&["true"], Some("kim"), 126, "unable to find user kim: no matching entries in passwd file"),
        ] {
            let error = running.exec(args, user).unwrap_err();
            assert_eq!((error.exit_code(), error.to_string().as_str()), (code, text));
        }
        let (process, console) = running.exec_terminal(&["sh", "-c", "tty; stty size; test -t 0 && echo yes"]).unwrap();
        assert_eq!(read_all(console), "/dev/pts/0\n30 100\nyes\n");
        assert_eq!(end(process.pidfd.as_fd()), 0);
        running.kill();
    });
}

#[test]
fn joining_a_container_that_has_ended_is_an_error() {
    store!(Store::of_user()).inside(|inside| {
        let container = inside.container(script("read line"));
        let running = container.start().unwrap();
        while !dunlin::sys::socket::wait_readable(running.created.pidfd.as_fd(), std::time::Duration::from_secs(5))
            .unwrap()
        {}
        let error = running.exec(&["true"], None).unwrap_err();
        assert!(matches!(error, RuntimeError::Join { .. }), "{error}");
        assert_eq!(running.finish().code, 1);
    });
}

#[test]
fn a_hostile_container_gains_nothing_from_a_process_that_joins() {
    store!(Store::of_user()).inside(|inside| {
        let hostile = "rm -rf /etc/passwd /etc/group; busybox mkfifo /etc/passwd; mkdir /etc/group; \
                       umount /dev/pts; rm -rf /dev/pts /dev/null; mkdir -p /dev/pts; echo data >/dev/null; \
                       ln -s /proc/1/fd/0 /dev/pts/ptmx; echo ready; while :; do sleep 1; done";
        let container = inside.container(|spec| {
            script(hostile)(spec);
            spec.capabilities.push("CAP_SYS_ADMIN".to_owned());
            spec.seccomp = Seccomp::Unconfined;
        });
        let running = container.start().unwrap();
        running.wait_for("ready");
        let error = running.exec(&["true"], Some("app")).unwrap_err().to_string();
        assert_eq!(error, "unable to find user app: read `/etc/passwd`: Invalid argument");
        let error = running.exec_terminal(&["true"]).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("read `/etc/passwd`") || error.contains("/dev/pts"),
            "{error}"
        );
        running.kill();
    });
}

#[test]
fn a_container_dies_with_its_parent() {
    store!(Store::of_user()).inside(|inside| {
        let container = inside.container(script("echo ready; while :; do sleep 1; done"));
        let (ours, theirs) = dunlin::sys::socket::pair().unwrap();
        let child = match process::clone(&process::CloneArgs::default()).unwrap() {
            process::Cloned::Child => {
                let running = container.start().unwrap();
                running.wait_for("ready");
                dunlin::sys::socket::send_with_fds(theirs.as_fd(), b"x", &[running.created.pidfd.as_fd()]).unwrap();
                process::exit_now(0)
            }
            process::Cloned::Parent(child) => child,
        };
        let (_, fds) = dunlin::sys::socket::recv_with_fds(ours.as_fd(), &mut [0; 8]).unwrap();
        assert_eq!(process::wait(child.pidfd.as_fd()).unwrap(), process::Ended::Code(0));
        let patience = std::time::Duration::from_secs(5);
        assert!(
            dunlin::sys::socket::wait_readable(fds[0].as_fd(), patience).unwrap(),
            "it lives on"
        );
    });
}

#[test]
fn a_created_container_that_is_never_started_ends_with_its_handle() {
    store!(Store::of_user()).inside(|inside| {
        let container = inside.container(script("echo ran >/data/ran"));
        let created = container
            .create(Stdio::Streams {
                stdin: None,
                stdout: None,
                stderr: None,
            })
            .unwrap();
        let pidfd = created.pidfd.try_clone().unwrap();
        drop(created);
        assert_eq!(end(pidfd.as_fd()), 125);
        assert!(!container.bundle.join("upper/data/ran").exists());
    });
}

#[test]
fn limits_settings_and_devices_are_as_asked() {
    store!(Store::of_user()).inside(|inside| {
        let text = "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni /proc/1/oom_score_adj; \
                    stat -c %t:%T /dev/mine; cat /dev/mine";
        let mut container = inside.container(|spec| {
            script(text)(spec);
            spec.rlimits = vec![("RLIMIT_NOFILE".to_owned(), 100, 200)];
            spec.sysctls = BTreeMap::from([
                ("net.ipv4.ip_forward".to_owned(), "1".to_owned()),
                ("kernel.shmmni".to_owned(), "77".to_owned()),
            ]);
            spec.devices = vec![dunlin::types::container::Device {
                host: "/dev/null".into(),
                container: "/dev/mine".into(),
                access: "rw".into(),
            }];
        });
        container.spec.process.as_mut().unwrap().oom_score_adj = Some(500);
        let out = container.run().unwrap();
        assert_eq!(out.stdout, "100\n200\n1\n77\n500\n1:3\n", "{}", out.stderr);
        let host = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let error = inside
            .container(|spec| spec.sysctls = BTreeMap::from([("kernel.core_pattern".to_owned(), "|/x".to_owned())]))
            .run()
            .unwrap_err();
        assert!(error.to_string().contains("it would change the host"), "{error}");
        assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), host);
        let error = inside.container(|spec| spec.rlimits = vec![("RLIMIT_NOFILE".to_owned(), 1 << 40, 1 << 40)]).run();
        assert!(error.unwrap_err().to_string().starts_with("cannot set RLIMIT_NOFILE to"));
    });
}

#[test]
fn files_of_a_container_belong_to_the_owners_ids() {
    let store = store!(Store::of_user());
    store.inside(|inside| {
        let mut container = inside.container(script("touch /data/root; ls -ld /data/root"));
        container.rootfs = Rootfs::Flat(inside.image());
        assert_eq!(container.run().unwrap().code, 0);
        let made = fs::metadata(inside.image().join("data/root")).unwrap();
        assert_eq!(made.uid(), 0, "the container's root is the store's root");
    });
}
