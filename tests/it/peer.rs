//! The same command lines on dunlin and on podman of Debian: exit code, stdout and what is left behind must be the same, but for
//! the differences that are listed with their reasons. `$E` is the engine; a line is run by a shell.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use crate::fixture::cmd::{Cmd, dunlin};
use crate::fixture::images::{Format, Index};
use crate::fixture::scratch::Scratch;
use crate::skip;

/// How often a line is tried.
const TRIES: usize = 3;

/// An engine: its scratch folder holds `E`, a script that calls it.
struct Engine {
    name: &'static str,
    scratch: Scratch,
}

impl Engine {
    fn new(name: &'static str, call: impl FnOnce(&Scratch) -> String) -> Engine {
        let scratch = Scratch::new(name);
        // Without a network, and, for podman, without limits that not every machine's root may raise.
        let limits = if name == "podman" {
            "--ulimit nofile=512:512 --ulimit nproc=4096:4096"
        } else {
            ""
        };
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in run|create) verb=$1; shift; set -- \"$verb\" --network none {limits} \"$@\";; esac\n\
             exec {} \"$@\"\n",
            call(&scratch)
        );
        let path = scratch.join("E");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // Root of a container of dunlin's is nobody on the host.
        fs::set_permissions(scratch.folder("work"), fs::Permissions::from_mode(0o777)).unwrap();
        Engine { name, scratch }
    }

    fn run(&self, line: &str) -> (i32, String, String) {
        let out = Cmd::new("sh")
            .args(["-c", line])
            .env("E", self.scratch.join("E"))
            .dir(&self.scratch.join("work"))
            .timeout(Duration::from_secs(120))
            .run();
        (out.code, out.stdout, out.stderr)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.run("$E rm --all --force --time 0");
    }
}

/// What differs from run to run and from store to store gets one form.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut words: Vec<String> = Vec::new();
        for word in line.split_whitespace() {
            words.push(hex(word));
        }
        let line = words.join(" ");
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// Runs of 12 and of 64 hex digits are ids.
fn hex(word: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    let flush = |run: &mut String, out: &mut String| {
        match run.len() {
            64 => out.push_str("ID64"),
            12 if run.chars().any(|c| c.is_ascii_digit()) => out.push_str("ID12"),
            _ => out.push_str(run),
        }
        run.clear();
    };
    for c in word.chars() {
        if c.is_ascii_digit() || ('a'..='f').contains(&c) {
            run.push(c);
        } else {
            flush(&mut run, &mut out);
            out.push(c);
        }
    }
    flush(&mut run, &mut out);
    out
}

/// Same exit code, same stdout, and stderr on both or on neither.
const SAME: &[&str] = &[
    "$E run --rm box echo hello",
    "$E run --rm box sh -c 'exit 7'",
    "$E run --rm box sh -c 'kill -9 $$'",
    "$E run --rm box sh -c 'kill -TERM $$'; echo $?",
    "$E run --rm box /nope",
    "$E run --rm box nope",
    "$E run --rm box /etc",
    "$E run --rm nosuchimage:none true",
    "echo in | $E run --rm -i box cat",
    "echo in | $E run --rm box cat",
    "$E run --rm box sh -c 'echo out; echo err >&2' 2>/dev/null",
    "$E run --rm box sh -c 'echo out; echo err >&2' 2>&1 >/dev/null",
    "$E run --rm -e A=1 -e B box sh -c 'echo $A-$B'",
    "B=host $E run --rm -e B box sh -c 'echo $B'",
    "printf 'A=1\\n# no\\nB=two words\\n' >env; $E run --rm --env-file env box sh -c 'echo $A $B'",
    "$E run --rm --env-file /nowhere box true",
    "$E run --rm -w /tmp box pwd",
    "$E run --rm -u 1000 box id -u",
    "$E run --rm -u 1000:50 box id -g",
    "$E run --rm -u nobody-here box id",
    "$E run --rm --hostname dev box hostname",
    "$E run --rm --group-add 50 --group-add 51 box sh -c 'id -G | tr \" \" \"\\n\" | grep -c ^5'",
    "$E run --rm --group-add extra --group-add 51 box id -G",
    "$E run --rm -u app --group-add extra box id -G",
    "$E run --rm --group-add nosuch box id",
    "$E create --name c1 --group-add 51 --group-add extra --sdnotify ignore box true >/dev/null; $E inspect -f '{{.HostConfig.GroupAdd}}' c1; $E rm c1",
    "$E run --rm --sdnotify nobody box true",
    "$E run --rm --systemd sometimes box true",
    "$E run --rm --systemd=always box sh -c 'grep -c \" /run/lock tmpfs\" /proc/mounts; echo ${#container_uuid}'",
    "$E create --name c1 --systemd always box true >/dev/null; $E inspect -f '{{.Config.StopSignal}}' c1; $E rm c1",
    "$E create --name c1 box /sbin/init >/dev/null; $E inspect -f '{{.Config.StopSignal}}' c1; $E rm c1",
    "$E run --name c1 -v vol:/v -v /w --tmpfs /fast box sh -c 'echo a >/v/f; echo b >/w/f'; $E run --rm --volumes-from c1 box sh -c 'cat /v/f /w/f; ls -d /fast'; $E run --rm --volumes-from c1:ro box touch /v/x; echo $?; $E rm -v c1; $E volume rm vol",
    "$E run --rm --volumes-from nosuch box true",
    "exec 3<<X\nin\nX\n$E run --rm --preserve-fds 1 box sh -c 'cat <&3'",
    "$E run -d --name c1 --conmon-pidfile pid box sleep 100 >/dev/null; test $(cat pid) = $($E inspect -f '{{.State.ConmonPid}}' c1); echo $?; $E rm -f -t 0 c1; rm pid",
    "$E run --rm --ipc private --pid private --uts private --cgroupns private --expose 80 box true",
    "$E run --rm --umask 0077 box sh -c 'umask; touch /x; stat -c %a /x'",
    "$E run --rm --oom-score-adj 500 box cat /proc/self/oom_score_adj",
    "$E run --rm --add-host db:10.1.2.3 box grep ^10 /etc/hosts",
    "$E run --rm --entrypoint echo box hello",
    "$E run --rm --entrypoint '[\"echo\",\"a b\"]' box c",
    "$E run --rm --read-only box touch /x",
    "$E run --rm --read-only box touch /tmp/x",
    "$E run --rm --tmpfs /fast box sh -c 'grep -c \" /fast tmpfs\" /proc/mounts'",
    "$E run --rm --shm-size 4m box sh -c 'df -k /dev/shm | tail -1 | awk \"{print \\$2}\"'",
    "$E run --rm -v $PWD:/here:ro box touch /here/x",
    "$E run --rm -v $PWD:/here box sh -c 'echo x >/here/made'; cat made",
    "$E run --rm -v vol:/v box sh -c 'echo kept >/v/f' && $E run --rm -v vol:/v box cat /v/f; $E volume rm vol",
    "$E run --rm --mount type=tmpfs,target=/m box sh -c 'grep -c \" /m tmpfs\" /proc/mounts'",
    "$E run --rm --mount type=bind,source=$PWD,target=/m,ro box touch /m/x",
    "$E run --rm --mount type=nope,target=/m box true",
    "$E run --rm -v relative/x:/x box true",
    "$E run --rm --cap-drop all box grep CapEff /proc/self/status",
    "$E run --rm --cap-add nope box true",
    "$E run --rm --security-opt no-new-privileges box grep NoNewPrivs /proc/self/status",
    "$E run --rm --sysctl kernel.shm_rmid_forced=1 box cat /proc/sys/kernel/shm_rmid_forced",
    "$E run --rm --ulimit nofile=100:200 box sh -c 'ulimit -n; ulimit -Hn'",
    "$E run --rm --stop-signal NOPE box true",
    "$E run --rm --restart always box true",
    "$E run --rm --pull never nosuch/image true",
    "$E run --rm --log-driver nope box true",
    "$E run --rm -m lots box true",
    "$E run --rm --nosuchflag box true",
    "$E run",
    "$E nosuchverb",
    "$E create --name c1 box true; $E start c1; $E wait c1; $E rm c1",
    "$E create --name c1 box true >/dev/null; $E create --name c1 box true 2>/dev/null; echo $?; $E rm c1",
    "$E create --name 'bad name' box true",
    "$E run -d --name c1 box sleep 100; $E rm c1; echo $?; $E rm -f -t 0 c1",
    "$E run -d --name c1 box sleep 100 >/dev/null; $E ps --format '{{.Names}} {{.Image}} {{.Command}}'; $E rm -f -t 0 c1",
    "$E run -d --name c1 box sleep 100 >/dev/null; $E ps -q; $E ps -aq --no-trunc; $E rm -f -t 0 c1 >/dev/null; $E ps -a",
    "$E ps --noheading",
    "$E ps --filter status=nope",
    "$E ps --filter nope=x",
    "$E ps --format '{{.Nope}}'",
    "$E create --name a -l x=1 box true >/dev/null; $E create --name b -l x=2 box true >/dev/null; $E ps -a --filter label=x=1 --format '{{.Names}}'; $E ps -a --filter name=b --format '{{.Names}}'; $E ps -a --sort names --format '{{.Names}}'; $E ps -n 1 --format '{{.Names}}'; $E rm a; $E rm b",
    "$E run --name c1 box sh -c 'exit 3'; $E ps -a --filter exited=3 --format '{{.Names}}'; $E inspect -f '{{.State.ExitCode}} {{.State.Status}} {{.State.Running}}' c1; $E rm c1",
    "$E run --name c1 box sh -c 'echo one; echo two'; $E logs c1; $E logs --tail 1 c1; $E logs --nope c1; $E rm c1",
    "$E run --name c1 box sh -c 'echo out; echo err >&2' >/dev/null 2>&1; $E logs c1 2>/dev/null; $E logs c1 2>&1 >/dev/null; $E rm c1",
    "$E logs nosuch",
    "$E run -d --name c1 box sleep 100 >/dev/null; $E exec c1 echo hi; $E exec c1 sh -c 'exit 5'; echo $?; $E exec c1 nope; echo $?; $E exec c1 /etc; echo $?; $E exec -e A=1 c1 sh -c 'echo $A'; $E exec -w /tmp c1 pwd; $E exec -u 1000 c1 id -u; echo x | $E exec -i c1 cat; $E rm -f -t 0 c1",
    "$E exec nosuch true",
    "$E run -d --name c1 box sleep 100 >/dev/null; $E exec -d c1 touch /made; sleep 1; $E exec c1 ls /made; $E rm -f -t 0 c1",
    "$E run -d --name c1 box sleep 100 >/dev/null; $E kill -s NOPE c1; echo $?; $E kill c1; $E wait c1; $E kill c1; echo $?; $E rm c1",
    "$E run -d --name c1 box sleep 100 >/dev/null; $E stop -t 0 c1; $E inspect -f '{{.State.ExitCode}}' c1; $E stop c1; $E start c1; $E restart -t 0 c1; $E rm -f -t 0 c1",
    "$E stop nosuch",
    "$E stop --ignore nosuch",
    "$E rm nosuch",
    "$E rm -f nosuch",
    "$E rm --ignore nosuch",
    "$E start nosuch",
    "$E wait nosuch",
    "$E inspect nosuch",
    "$E top nosuch",
    "$E port nosuch",
    "$E attach nosuch",
    "$E rename nosuch x",
    "$E cp nosuch:/x .",
    "$E export nosuch",
    "$E diff nosuch",
    "$E commit nosuch",
    "$E create --name c1 box true >/dev/null; $E rename c1 c2; $E ps -a --format '{{.Names}}'; $E container exists c2; echo $?; $E container exists c1; echo $?; $E rm c2",
    "$E run -d --name c1 box sleep 100 >/dev/null; $E pause c1; $E inspect -f '{{.State.Status}}' c1; $E pause c1; echo $?; $E unpause c1; $E unpause c1; echo $?; $E rm -f -t 0 c1",
    "$E create --name c1 box true >/dev/null; $E pause c1; echo $?; $E attach c1; echo $?; $E rm c1",
    "$E run --name c1 box sh -c 'echo x >/new; rm /bin/ls; mkdir /dir'; $E diff c1 | grep -v /etc | sort; $E rm c1",
    "$E run --name c1 box sh -c 'echo x >/new'; $E cp c1:/new got; cat got; $E cp got c1:/tmp; $E cp c1:/tmp/got again; cat again; $E cp c1:/nope .; echo $?; $E rm c1",
    "mkdir -p d/e; echo f >d/e/f; $E create --name c1 box true >/dev/null; $E cp d c1:/; $E cp d/. c1:/into; $E cp c1:/d/e out; cat out/f; $E cp c1:/into/e/f .; cat f; $E rm c1",
    "$E create --name c1 box true >/dev/null; echo x >one; $E cp one c1:/none/; echo $?; $E cp one c1:/none/x; echo $?; $E cp nope c1:/; echo $?; $E rm c1",
    "$E run --name c1 box sh -c 'echo x >/new'; $E export c1 | tar t | grep -c '^new$'; $E export -o e.tar c1; tar tf e.tar | grep -c '^new$'; $E rm c1",
    "$E run --name c1 box sh -c 'echo x >/new'; $E commit -q c1 made:1 | wc -c; $E run --rm made:1 cat /new; $E rmi made:1 | head -1; $E rm c1",
    "$E volume create v1; $E volume ls -q; $E volume inspect -f '{{.Name}} {{.Driver}} {{.Scope}}' v1; $E volume rm v1; $E volume ls -q",
    "$E volume create v1; $E volume create v1; echo $?; $E volume exists v1; echo $?; $E volume exists v2; echo $?; $E volume rm v2; echo $?; $E volume rm v1",
    "$E create --name c1 -v v1:/v box true >/dev/null; $E volume rm v1; echo $?; $E volume ls --filter dangling=true -q; $E rm c1; $E volume prune -f",
    "$E volume ls",
    "$E volume create -l a=b v1; $E volume inspect -f '{{.Labels.a}}' v1; $E volume ls --filter label=a -q; $E volume ls --format '{{.Name}}:{{.Driver}}'; $E volume rm v1",
    "$E images --format '{{.Repository}}:{{.Tag}}' | sort",
    "$E images -q | sort -u",
    "$E images -n | wc -l",
    "$E images --filter reference='*box*' --format '{{.Tag}}'",
    "$E images --filter nope=x",
    "$E image exists box; echo $?; $E image exists nope; echo $?",
    "$E tag box other:2; $E images --format '{{.Repository}}:{{.Tag}}' | sort; $E untag box other:2; $E images --format '{{.Tag}}' | sort",
    "$E tag nosuch x",
    "$E untag nosuch",
    "$E rmi nosuch",
    "$E rmi -f nosuch",
    "$E create --name c1 box true >/dev/null; $E rmi box 2>/dev/null; echo $?; $E rm c1",
    "$E tag box two:1; $E rmi two:1 | head -1",
    "$E tag box two:1; $E rmi $($E images -q box); echo $?; $E untag box two:1",
    "$E inspect --type image -f '{{.Os}} {{.Architecture}} {{len .RootFS.Layers}}' box",
    "$E image inspect nosuch",
    "$E image inspect -f '{{.Config.StopSignal}}|{{.Config.User}}|{{.Config.Entrypoint}}|{{.Config.Volumes}}|{{.Config.ExposedPorts}}' box",
    "$E history -q box | wc -l",
    "$E history nosuch",
    "$E save -o s.tar box && tar tf s.tar | grep -c manifest.json",
    "$E save -o s2.tar box && $E load -i s2.tar | tail -1",
    "$E load -i /nowhere",
    "$E load -i /etc/passwd",
    "$E image prune -f",
    "$E run --rm box sh -c 'cat /proc/1/comm'",
    "$E run --rm box sh -c 'echo $HOME; echo $PATH'",
    "$E run --rm -t box sh -c 'echo $TERM'",
    "$E run --rm -d box true | wc -c",
    "$E run --rm --cidfile cid box true; wc -c <cid; $E run --rm --cidfile cid box true; echo $?; rm cid",
    "$E run --name c1 box true; $E run --replace --name c1 box echo again | tail -1; $E rm c1",
    "$E run --name c1 box true; $E inspect -f '{{.Name}} {{.Config.Cmd}} {{.Path}}' c1; $E rm c1",
    "$E create --name c1 -e A=b -l c=d -w /tmp -u 1 --hostname h box true >/dev/null; $E inspect -f '{{.Config.Labels.c}} {{.Config.WorkingDir}} {{.Config.User}} {{.Config.Hostname}}' c1; $E rm c1",
    "$E create --name c1 box true >/dev/null; $E inspect -f '{{.HostConfig.NetworkMode}} {{.HostConfig.AutoRemove}}' c1; $E rm c1",
    "$E create --name c1 box true >/dev/null; $E inspect -f '{{json .State.Status}} {{.ImageName}}' c1; $E inspect -f '{{.Nope}}' c1; echo $?; $E rm c1",
    "$E create --name c1 --health-cmd true box sleep 9 >/dev/null; $E inspect -f '{{.Config.Healthcheck.Test}}' c1; $E healthcheck run c1; echo $?; $E rm c1 2>/dev/null",
    "$E run -d --name c1 --health-cmd 'test -e /ok' --health-interval 1h box sleep 100 >/dev/null; $E healthcheck run c1 >/dev/null; echo $?; $E exec c1 touch /ok; $E healthcheck run c1; echo $?; $E rm -f -t 0 c1; echo x >&2",
    "$E run -d --name c1 box sleep 100 >/dev/null; $E healthcheck run c1; echo $?; $E rm -f -t 0 c1",
    "$E run -d --name c1 box sleep 100 >/dev/null; $E top c1 pid comm; $E rm -f -t 0 c1",
    "$E run -d --name c1 box sleep 100 >/dev/null; $E stats --no-stream --format '{{.Name}}' c1; $E rm -f -t 0 c1",
    "$E container prune -f; $E create --name c1 box true >/dev/null; $E container prune -f | wc -c",
    "$E ps --help >/dev/null",
    "$E run --help >/dev/null",
    "$E image nosuch",
    "$E container nosuch",
    "$E volume nosuch",
    "$E version >/dev/null",
    "$E info >/dev/null",
    "$E info -f '{{.Host.OS}} {{.Host.Arch}}'",
    "$E port nosuch 80",
    "$E login --get-login nosuch.example",
    "$E logout nosuch.example",
    "$E search",
    "$E pull",
    "$E push nosuch",
    "$E push nosuch dir:/tmp/x",
    "$E generate systemd nosuch",
    "$E system df --format '{{.Type}}'",
];

/// What differs: the line, podman's exit code and dunlin's, and why.
const OTHER: &[(&str, i32, i32, &str)] = &[
    (
        "$E run --rm -w /made/up box pwd",
        126,
        0,
        "a working directory that is missing is made, as for one of the image",
    ),
    (
        "$E run --rm --blkio-weight 5 box true",
        0,
        125,
        "a limit that cannot be enforced is an error",
    ),
    ("$E wait --ignore nosuch", 125, 0, "a flag of later podmans"),
    (
        "$E run -d --name c9 box sleep 9 >/dev/null; $E exec -u nobody-here c9 true; code=$?; $E rm -f -t 0 c9 >/dev/null; exit $code",
        255,
        126,
        "as for `run`: the command cannot be invoked",
    ),
    (
        "$E run --rm box sh -c 'test $container = podman'",
        0,
        1,
        "`container` is `oci`: dunlin is not podman",
    ),
    (
        "$E run --rm box sh -c 'test -n \"$TERM\"'",
        0,
        1,
        "without a terminal there is no TERM",
    ),
    (
        "$E create --name c9 box true >/dev/null; $E inspect -f '{{.HostConfig.RestartPolicy.Name}}' c9 | grep -q no; code=$?; $E rm c9 >/dev/null; exit $code",
        1,
        0,
        "later podmans too say `no` where nothing was said",
    ),
    (
        "$E create --name c9 box true >/dev/null; $E create --replace --name c9 box true | grep -q c9; code=$?; $E rm c9 >/dev/null; exit $code",
        0,
        1,
        "the name of what was replaced is not printed before the new id",
    ),
    (
        "$E create --name c9 box sleep 9 >/dev/null; $E exec c9 true; code=$?; $E rm c9 >/dev/null; exit $code",
        255,
        125,
        "125 is an error of dunlin itself, everywhere",
    ),
    (
        "$E run -d --name c9 box sleep 9 >/dev/null; $E ps --format '{{.State}}' | grep -q ^running; code=$?; $E rm -f -t 0 c9 >/dev/null; exit $code",
        1,
        0,
        "podman 4.3 shows the status instead of the state",
    ),
];

#[test]
fn command_lines_do_what_podmans_do() {
    if Command::new("podman").arg("--version").output().is_err()
        || Command::new("runc").arg("--version").output().is_err()
    {
        skip!("podman or runc is not installed");
    }
    // Root, as who the same store layout works for both on a machine with any control groups.
    if !dunlin::sys::creds::effective_ids().0.eq(&0) {
        skip!("needs root");
    }
    let podman = Engine::new("podman", |scratch| {
        format!(
            "podman --root {0}/root --runroot {0}/run --storage-driver vfs --cgroup-manager cgroupfs --events-backend file --runtime runc",
            scratch.path().display()
        )
    });
    let ours = Engine::new("dunlin", |scratch| {
        format!(
            "{} --root {1}/root --runroot {1}/run",
            dunlin().display(),
            scratch.path().display()
        )
    });
    let layout = Scratch::new("peer-image");
    Index::busybox(Format::Oci).write_layout(layout.path(), "latest");
    for engine in [&podman, &ours] {
        let line = format!(
            "$E tag $($E pull -q oci:{}:latest) localhost/box:latest && for n in $($E images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | grep -v box); do $E untag $n $n; done; true",
            layout.path().display()
        );
        let (code, _, errors) = engine.run(&line);
        if code != 0 {
            skip!("{} cannot pull here: {errors}", engine.name);
        }
    }
    let mut wrong = Vec::new();
    for line in SAME {
        // A busy machine may part what a line does from what it sees of it: a line that differs is tried again from a clean state.
        let mut last = None;
        for _ in 0..TRIES {
            let (theirs, own) = (podman.run(line), ours.run(line));
            let same = theirs.0 == own.0
                && plain(&theirs.1) == plain(&own.1)
                && theirs.2.trim().is_empty() == own.2.trim().is_empty();
            last = (!same).then_some((theirs, own));
            if same {
                break;
            }
            for engine in [&podman, &ours] {
                engine.run("$E rm --all --force --time 0; rm -rf ./*");
            }
        }
        if let Some((theirs, own)) = last {
            wrong.push(format!(
                "{line}\n  podman {}: {:?}\n         {:?}\n  dunlin {}: {:?}\n         {:?}",
                theirs.0,
                plain(&theirs.1),
                theirs.2.trim(),
                own.0,
                plain(&own.1),
                own.2.trim()
            ));
        }
    }
    for (line, their_code, our_code, reason) in OTHER {
        let (theirs, own) = (podman.run(line), ours.run(line));
        if (theirs.0, own.0) != (*their_code, *our_code) {
            wrong.push(format!(
                "{line} ({reason}): podman {}, dunlin {}: {}",
                theirs.0, own.0, own.2
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} lines differ:\n{}",
        wrong.len(),
        SAME.len(),
        wrong.join("\n")
    );
}
