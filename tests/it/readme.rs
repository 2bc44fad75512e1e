//! The README's commands, run as they are written: in a copy-on-write image of this machine that nobody else sees, root
//! installs dunlin, uses the command line, puts a first app in place and sends a document from the fleet.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fixture::broker::Broker;
use crate::fixture::child;
use crate::fixture::cmd::{self, Cmd};
use crate::fixture::images::{Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;
use crate::skip;

/// What the text calls its registry; a real one stands in for it.
const REGISTRY: &str = "registry.example";

/// A root of its own: the machine's files below a layer in memory. `$1` is an empty folder, `$2` what was released.
const ROOT: &str = r#"
set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/new"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/new"
cp -r "$2" "$1/new/release"
cd "$1/new"
for folder in proc sys dev; do mount --rbind "/$folder" "$folder"; done
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p var/lib/dunlin old
mount -t tmpfs tmpfs var/lib/dunlin
pivot_root . old
umount -l /old
cd /release
exec bash -e steps
"#;

/// The steps; `INSTALL`, `CLI`, `APP`, `FLEET` and `OPERATOR` are the README's.
const STEPS: &str = r#"
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# There is no service manager in here: units are enabled, and the agent is started by hand below.
export SYSTEMD_OFFLINE=1
rm -rf /etc/dunlin
(set -x
INSTALL
)
[ "$(stat -c %U:%a /var/lib/dunlin)" = dunlin:700 ]
[ -e /etc/systemd/system/multi-user.target.wants/dunlin.service ]
[ -e /etc/systemd/system/multi-user.target.wants/dunlin-keeper.service ]
echo installed

(set -x
CLI
)
[ -z "$(dunlin ps -a -q)" ] && [ -z "$(dunlin images -q)" ]
[ -z "$(find /var/lib/dunlin /run/dunlin -user root)" ]
echo used

cat >/etc/dunlin/apps/hello.toml <<'END'
APP
END
sed -i 's/^#name = .*/name = "dev"/' /etc/dunlin/agent.toml
cat >>/etc/dunlin/agent.toml <<'END'
SETTINGS
END
runuser -u dunlin -- dunlin --root /var/lib/dunlin --runroot /run/dunlin agent &
agent=$!
until_it_holds() {
    local end=$((SECONDS + 60))
    while ((SECONDS < end)); do
        if eval "$1"; then return; fi
        sleep 0.2
    done
    echo "never: $1"
    dunlin ps -a
    exit 1
}
until_it_holds 'dunlin ps --format "{{.Names}}" | grep -qx hello'
echo the first app runs
sed 's/^name .*/name = "web"/' /etc/dunlin/apps/hello.toml >web.toml
(set -x
DEVICE
)
echo the device was asked
(set -x
FLEET
)
# The record's own state, not that of the last one inside it.
until_it_holds 'mosquitto_sub -p PORT -t dunlin/v1/d/dev/deploy -C 1 -W 5 | grep -Eq "\"activity\":\"first\",\"generation\":[0-9]+,\"source\":\"[^\"]+\",\"rollout\":null,\"state\":\"COMMITTED\""'
dunlin ps --format '{{.Names}}' | grep -qx greeter
echo the fleet has spoken
(PATH=/release/operator:$PATH
set -x
OPERATOR
)
dunlin ps --format '{{.Names}}' | grep -qx web
echo the operator was heard
kill $agent
wait $agent || true
dunlin rm -a -f -t 0
"#;

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The fenced block after the line `<!-- test: NAME -->`.
pub fn block(readme: &str, name: &str) -> String {
    let (_, rest) = readme
        .split_once(&format!("<!-- test: {name} -->\n"))
        .unwrap_or_else(|| panic!("no block `{name}`"));
    let (first, rest) = rest.split_once('\n').unwrap();
    assert!(first.starts_with("```"), "{name}: {first}");
    rest.split_once("\n```").unwrap().0.to_owned()
}

#[test]
fn every_command_of_the_readme_is_run_by_a_test() {
    let readme = fs::read_to_string(repository("README.md")).unwrap();
    let mut marked = false;
    let mut inside = false;
    for line in readme.lines() {
        match line {
            "```" if inside => inside = false,
            "```sh" | "```toml" => {
                assert!(marked, "a block without `<!-- test: … -->` above it");
                inside = true;
            }
            // The commands that set up and test: `tests/run` runs them, or is them.
            "```console" => inside = true,
            _ if inside && line.starts_with('$') => {
                let known = [
                    "cargo run --release --example demo",
                    "tests/run",
                    "tests/build-static",
                    "tests/bench/run",
                ];
                let command = line.trim_start_matches("$ ").split("  ").next().unwrap().trim();
                assert!(known.contains(&command), "{command}");
            }
            _ => {}
        }
        marked = line.starts_with("<!-- test: ");
    }
}

#[test]
fn the_readme_holds_from_installation_to_a_document_of_the_fleet() {
    if !nix::unistd::geteuid().is_root() {
        skip!("only root can install dunlin into an image of this machine");
    }
    let readme = fs::read_to_string(repository("README.md")).unwrap();
    let registry = Registry::plain();
    let broker = Broker::plain();
    registry.push("hello", "1", &Index::busybox(Format::Docker));
    let release = Scratch::new("release");
    cmd::copy_program(cmd::dunlin(), &release.join("dunlin"));
    fs::create_dir(release.join("operator")).unwrap();
    cmd::copy_program(cmd::operator(), &release.join("operator/dunlin"));
    for folder in ["config", "systemd"] {
        Cmd::new("cp")
            .arg("-r")
            .arg(repository(folder))
            .arg(release.path())
            .ok();
    }
    let settings = fs::read_to_string(repository("config/agent.toml")).unwrap();
    assert!(
        !settings.lines().any(|line| line.trim() == "[mqtt]"),
        "the settings file names no broker yet"
    );
    let port = broker.port().to_string();
    let steps = STEPS
        .replace("INSTALL", &block(&readme, "install"))
        .replace("CLI", &block(&readme, "cli"))
        .replace("DEVICE", &block(&readme, "device"))
        .replace("APP", &block(&readme, "app").replace("10m", "1s"))
        .replace(
            "FLEET",
            &block(&readme, "fleet").replace("-h 127.0.0.1", &format!("-h 127.0.0.1 -p {port}")),
        )
        .replace(
            "OPERATOR",
            &block(&readme, "operator").replace("127.0.0.1:1883", &format!("127.0.0.1:{port}")),
        )
        .replace("SETTINGS", &format!("[mqtt]\nurl='mqtt://127.0.0.1:{port}'"))
        .replace("PORT", &port)
        .replace(REGISTRY, &registry.host());
    release.write("steps", steps);
    let place = Scratch::new("readme");
    let out = Cmd::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c", ROOT, "bash"])
        .arg(place.path())
        .arg(release.path())
        .timeout(Duration::from_secs(180))
        .run();
    for (pid, _) in place.processes() {
        child::end(pid);
    }
    assert_eq!(out.code, 0, "{}\n{}", out.stdout, out.stderr);
    for said in [
        "installed",
        "\nhello\n",
        "used",
        "the first app runs",
        "the device was asked",
        "the fleet has spoken",
        "the operator was heard",
    ] {
        assert!(
            out.stdout.contains(said),
            "`{said}` is missing:\n{}\n{}",
            out.stdout,
            out.stderr
        );
    }
}
