//! A first day with podman as a book tells it, typed line by line with `podman` being dunlin: a user's shell, a web server in a
//! container, images of one's own, registries, a mounted image, volumes. Only the builds are left out.

use super::flow::wait_for;
use super::terminal::Typist;
use super::{Who, World};
use crate::fixture::arch::Arch;
use crate::fixture::cmd::{Cmd, dunlin};
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::tree::Tree;
use crate::skip;
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, thread};

const PAGE: &str = "<html>\n <head>\n </head>\n <body>\n  <h1>Rot Front!</h1>\n </body>\n</html>\n";
const PS: &str = "CONTAINER ID  IMAGE       COMMAND     CREATED     STATUS      PORTS       NAMES";
const IMAGES: &str = "REPOSITORY  TAG         IMAGE ID    CREATED     SIZE";

/// The user's shell.
struct Shell {
    world: World,
    registry: Registry,
    home: PathBuf,
}

impl Shell {
    fn new() -> Result<Shell, String> {
        let world = World::networked(Who::Ranges, Index::busybox(Format::Oci))?;
        let registry = Registry::plain();
        registry.push("library/httpd", "latest", &httpd());
        lead(&world, registry.port());
        let home = world.folder("shell");
        let tool = home.join("podman");
        fs::write(&tool, format!("#!/bin/sh\nexec {} \"$@\"\n", dunlin().display())).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        // Both registries are the one that is here.
        let mut conf = "unqualified-search-registries = ['docker.io', 'ghrc.io', 'quay.io']\n".to_owned();
        for name in ["docker.io", "quay.io"] {
            let host = registry.host();
            conf += &format!("[[registry]]\nprefix = '{name}'\nlocation = '{host}'\ninsecure = true\n");
        }
        fs::write(home.join("registries.conf"), conf).unwrap();
        let shell = Shell { world, registry, home };
        // What the world brings is no part of the day.
        shell.ok(&format!("podman rmi {}", shell.world.image));
        Ok(shell)
    }

    fn cmd(&self, program: &str) -> Cmd {
        let path = format!("{}:/usr/bin:/bin:/usr/sbin", self.home.display());
        let cmd = self.world.site().cmd(self.world.user(), Path::new("/usr/bin/env"));
        cmd.arg(format!("--chdir={}", self.home.display()))
            .arg(format!("PATH={path}"))
            .arg("CONTAINERS_REGISTRIES_CONF=registries.conf")
            .arg(program)
    }

    fn line(&self, line: &str) -> Cmd {
        self.cmd("sh").args(["-c", line])
    }

    fn ok(&self, line: &str) -> String {
        self.line(line).ok()
    }

    /// Rows of a table below its header, words parted by one space.
    fn rows(&self, line: &str, header: &str) -> Vec<String> {
        let text = self.ok(line);
        let plain = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut lines = text.lines().map(plain);
        assert_eq!(lines.next(), Some(plain(header)), "{line}");
        lines.collect()
    }

    /// What a browser shows.
    fn browse(&self, port: u16) -> String {
        let url = format!("http://localhost:{port}/");
        self.cmd("curl").args(["-sS", "--max-time", "5", &url]).run().stdout
    }

    /// `NAME:TAG` → id, as the shell's user sees them.
    fn images(&self) -> Vec<(String, String)> {
        let rows = self.rows("podman images", IMAGES);
        let row = |row: &String| {
            let words: Vec<&str> = row.split(' ').collect();
            assert!(words[2].len() == 12 && row.ends_with("B"), "{row}");
            (format!("{}:{}", words[0], words[1]), words[2].to_owned())
        };
        rows.iter().map(row).collect()
    }
}

/// A web server that serves a folder, of two layers.
fn httpd() -> Index {
    let server = Tree::new()
        .dir("usr/local/apache2/htdocs")
        .file("usr/local/apache2/htdocs/index.html", 0o644, "It works!\n")
        .file("bin/bash", 0o755, "#!/bin/sh\nexec sh \"$@\"\n")
        .file(
            "bin/httpd-foreground",
            0o755,
            "#!/bin/sh\ntrap 'exit 0' TERM\nbusybox httpd -f -p 80 -h /usr/local/apache2/htdocs & wait\n",
        )
        .finish();
    Index::each(Format::Docker, |recipe| {
        let recipe = recipe.layer(server.clone(), Compression::Gzip);
        recipe
            .config("Cmd", json!(["httpd-foreground"]))
            .config("ExposedPorts", json!({"80/tcp": {}}))
    })
}

/// Lets the world's network reach a port of this machine's loopback.
fn lead(world: &World, port: u16) {
    let listen = move || TcpListener::bind(("127.0.0.1", port)).expect("nobody is there");
    let listener = world.site().here(listen).join().expect("it listens");
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            for (mut from, mut to) in [(&near, &far), (&far, &near)].map(|(a, b)| (twin(a), twin(b))) {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
}

fn twin(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a descriptor")
}

#[test]
fn a_day_with_podman_goes_the_same_with_dunlin() {
    let shell = match Shell::new() {
        Ok(shell) => shell,
        Err(reason) => skip!("{reason}"),
    };
    registries_are_asked(&shell);
    a_container_is_explored(&shell);
    a_web_server_runs(&shell);
    containers_are_inspected_and_removed(&shell);
    an_own_image_is_made(&shell);
    images_are_looked_at(&shell);
    an_image_gets_names_and_is_pushed(&shell);
    images_are_removed(&shell);
    an_image_is_pulled_and_mounted(&shell);
    a_folder_of_the_host_is_shown(&shell);
    assert_eq!(shell.ok("podman volume ls -q"), "");
}

fn registries_are_asked(shell: &Shell) {
    assert_eq!(shell.rows("podman images", IMAGES), [""; 0]);
    let remote: Value = serde_json::from_str(&shell.ok("podman inspect docker://docker.io/library/httpd")).unwrap();
    assert_eq!(remote["RepoTags"], json!(["latest"]));
    assert_eq!(remote["Architecture"], Arch::host().oci());
    let list = "podman inspect --raw docker://docker.io/library/httpd | jq -r '.manifests[].platform.architecture'";
    assert_eq!(shell.ok(list), "amd64\narm64");
    assert_eq!(
        shell.ok("podman inspect --no-tags docker://docker.io/library/httpd | jq -c .RepoTags"),
        "[]"
    );
    assert!(
        shell
            .ok("podman list-tags docker://docker.io/library/httpd")
            .contains("latest")
    );
    assert_eq!(
        shell.ok("podman info -f json | jq -c .registries.search"),
        r#"["docker.io","ghrc.io","quay.io"]"#
    );
}

fn a_container_is_explored(shell: &Shell) {
    let line = "podman run -ti --rm docker.io/library/httpd bash";
    let mut typist = Typist::start(shell.line(line), 24, 80);
    typist.sees("Trying to pull docker.io/library/httpd:latest...");
    typist.types("echo $((40 + 2)) commands\n");
    typist.sees("42 commands");
    typist.types("ps | grep -c bash; exit 3\n");
    assert_eq!(typist.ends(), 3);
    // The image stays, the container does not.
    assert_eq!(shell.images()[0].0, "docker.io/library/httpd:latest");
    assert_eq!(shell.rows("podman ps -a", PS), [""; 0]);
    for name in [
        "docker://docker.io/library/httpd:latest",
        "docker.io/library/httpd:latest",
    ] {
        assert_eq!(shell.ok(&format!("podman run --rm {name} echo hello")), "hello");
    }
}

fn a_web_server_runs(shell: &Shell) {
    let id = shell.ok("podman run -d -p 8080:80 --name myapp docker.io/library/httpd");
    assert_eq!(id.len(), 64);
    assert_eq!(shell.ok("podman port myapp"), "80/tcp -> 0.0.0.0:8080");
    wait_for(|| shell.browse(8080) == "It works!\n");
    let taken = shell.line("podman run -d -p 8081:80 --name myapp docker.io/library/httpd");
    taken
        .fails(125)
        .says(&["Error: ", "myapp", "already in use by", &id[..12]]);
    shell.ok("podman run -d -p 8081:80 --name myapp1 docker.io/library/httpd");
    wait_for(|| shell.browse(8081) == "It works!\n");
    assert_eq!(shell.ok("podman stop myapp"), "myapp");
    assert_eq!(shell.ok("podman stop -t 0 myapp1"), "myapp1");
    assert_eq!(shell.browse(8080), "");
    assert_eq!(shell.ok("podman start myapp"), "myapp");
    wait_for(|| shell.browse(8080) == "It works!\n");
    let rows = shell.rows("podman ps", PS);
    let first = format!("{} docker.io/library/httpd:latest httpd-foreground ", &id[..12]);
    assert!(rows.len() == 1 && rows[0].starts_with(&first), "{rows:?}");
    assert!(
        rows[0].contains(" ago Up ") && rows[0].ends_with(" 0.0.0.0:8080->80/tcp myapp"),
        "{rows:?}"
    );
    let rows = shell.rows("podman ps --all", PS);
    let second = rows
        .iter()
        .find(|row| row.ends_with(" ago 0.0.0.0:8081->80/tcp myapp1"));
    assert!(
        rows.len() == 2 && second.is_some_and(|row| row.contains(" ago Exited (137) ")),
        "{rows:?}"
    );
}

fn containers_are_inspected_and_removed(shell: &Shell) {
    let whole: Value = serde_json::from_str(&shell.ok("podman inspect myapp")).unwrap();
    let (one, state) = (&whole[0], &whole[0]["State"]);
    assert_eq!((&one["Path"], &one["Args"]), (&json!("httpd-foreground"), &json!([])));
    assert_eq!(
        (&state["Status"], &state["Running"], &state["OOMKilled"]),
        (&json!("running"), &json!(true), &json!(false))
    );
    assert!(shell.ok("podman inspect myapp | wc -l").trim().parse::<u32>().unwrap() > 100);
    assert_eq!(
        shell.ok("podman inspect --format '{{ .Config.Cmd }}' myapp"),
        "[httpd-foreground]"
    );
    assert_eq!(
        shell.ok("podman inspect --format '{{ .Config.StopSignal }}' myapp"),
        "15"
    );
    assert_eq!(shell.ok("podman container inspect -l --format '{{ .Name }}'"), "myapp1");
    let running = shell.line("podman rm myapp").fails(2);
    running.says(&["Error: ", "myapp", "is running", "--force"]);
    assert_eq!(
        shell.ok("podman stop myapp; podman rm myapp; podman rm myapp1"),
        "myapp\nmyapp\nmyapp1"
    );
    assert_eq!(shell.rows("podman ps", PS), [""; 0]);
}

fn an_own_image_is_made(shell: &Shell) {
    shell.ok("podman run -d -p 8080:80 --name myapp docker.io/library/httpd");
    let line =
        format!("podman exec -i myapp bash -c 'cat > /usr/local/apache2/htdocs/index.html' << _EOF\n{PAGE}_EOF\n");
    assert_eq!(shell.ok(&line), "");
    wait_for(|| shell.browse(8080) == PAGE);
    // What was changed is the container's, and stays when it stops.
    shell.ok("podman stop myapp; podman start myapp");
    wait_for(|| shell.browse(8080) == PAGE);
    let out = shell.line("podman commit myapp myimage").run().expect(0);
    assert_eq!(out.stdout.trim().len(), 64, "{}", out.stdout);
    shell.ok("podman run -d --name myapp1 -p 8081:80 myimage");
    wait_for(|| shell.browse(8081) == PAGE);
    let images = shell.images();
    assert_eq!(images.len(), 2, "{images:?}");
    let own = images.iter().find(|(name, _)| name == "localhost/myimage:latest");
    assert_eq!(own.map(|(_, id)| id.as_str()), Some(&out.stdout[..12]));
    shell.ok("podman rm -f -t 0 myapp myapp1");
}

fn images_are_looked_at(shell: &Shell) {
    let tree = shell.ok("podman image tree myimage");
    let heads = [
        "Image ID: ",
        "Tags:     [localhost/myimage:latest]",
        "Size:     ",
        "Image Layers",
    ];
    for (line, wanted) in tree.lines().zip(heads) {
        assert!(line.starts_with(wanted), "{tree}");
    }
    let below = tree
        .lines()
        .find(|line| line.contains("Top Layer of: [docker.io/library/httpd:latest]"));
    assert!(below.is_some_and(|line| line.starts_with("├── ID: ")), "{tree}");
    let last = tree.trim_end().lines().last().unwrap();
    assert!(
        last.starts_with("└── ID: ") && last.ends_with("Top Layer of: [localhost/myimage:latest]"),
        "{tree}"
    );
    let diff = shell.ok("podman image diff myimage");
    for line in [
        "C /usr/local/apache2/htdocs",
        "C /usr/local/apache2/htdocs/index.html",
        "C /usr",
    ] {
        assert!(diff.lines().any(|own| own == line), "{line}: {diff}");
    }
    assert!(
        shell
            .ok("podman image inspect myimage | wc -l")
            .trim()
            .parse::<u32>()
            .unwrap()
            > 30
    );
    let whole: Value = serde_json::from_str(&shell.ok("podman image inspect myimage")).unwrap();
    assert_eq!(whole[0]["RepoTags"], json!(["localhost/myimage:latest"]));
    let digest = whole[0]["Digest"].as_str().unwrap();
    assert_eq!(whole[0]["RepoDigests"], json!([format!("localhost/myimage@{digest}")]));
    assert_eq!(whole[0]["Config"]["ExposedPorts"], json!({"80/tcp": {}}));
    assert_eq!(
        shell.ok("podman image inspect --format '{{ .Config.Cmd }}' myimage"),
        "[httpd-foreground]"
    );
    assert_eq!(
        shell.ok("podman image inspect --format '{{ .Config.StopSignal }}' myimage"),
        ""
    );
}

fn an_image_gets_names_and_is_pushed(shell: &Shell) {
    shell.ok("podman push myimage quay.io/rhatdan/myimage");
    assert!(shell.registry.requests("PUT", "/v2/rhatdan/myimage/manifests/latest") > 0);
    shell.ok("podman tag myimage docker.io/lefthand67/test1");
    shell.ok("podman push docker.io/lefthand67/test1");
    shell.ok("podman tag docker.io/lefthand67/test1 docker.io/lefthand67/test1:1.0");
    let sent = shell.registry.requests("PATCH", "/blobs/uploads/");
    shell.ok("podman push docker.io/lefthand67/test1:1.0");
    assert_eq!(
        shell.registry.requests("PATCH", "/blobs/uploads/"),
        sent,
        "every blob is there"
    );
    let images = shell.images();
    let own = images
        .iter()
        .find(|(name, _)| name == "localhost/myimage:latest")
        .unwrap();
    for tag in ["latest", "1.0"] {
        assert!(
            images.contains(&(format!("docker.io/lefthand67/test1:{tag}"), own.1.clone())),
            "{images:?}"
        );
    }
}

fn images_are_removed(shell: &Shell) {
    shell.ok("podman run -d -p 8080:80 --name myapp docker.io/library/httpd");
    assert_eq!(
        shell.ok("podman rmi localhost/myimage"),
        "Untagged: localhost/myimage:latest"
    );
    let id = shell.ok("podman inspect --format '{{ .Id }}' test1");
    let several = shell.line(&format!("podman rmi {}", &id[..12])).fails(125);
    several.says(&[
        "Error: unable to delete image",
        &id,
        "by ID with more than one tag",
        "docker.io/lefthand67/test1:latest",
        "docker.io/lefthand67/test1:1.0",
        "please force removal",
    ]);
    let used = shell.line("podman rmi docker.io/library/httpd").fails(2);
    used.says(&["Error: ", "in use by a container"]);
    assert_eq!(
        shell.ok("podman rmi test1"),
        "Untagged: docker.io/lefthand67/test1:latest"
    );
    let gone = shell.ok("podman rmi test1:1.0");
    assert_eq!(gone, format!("Untagged: docker.io/lefthand67/test1:1.0\nDeleted: {id}"));
    // A question without an answer is a no.
    shell.ok("podman tag docker.io/library/httpd other");
    let prune = shell.line("podman image prune -a").run().expect(0);
    let asked = format!("{}{}", prune.stdout, prune.stderr);
    assert!(
        asked.contains("removes all images without at least one container associated with them"),
        "{asked}"
    );
    assert!(asked.contains("Are you sure you want to continue? [y/N]"), "{asked}");
    assert_eq!(shell.images().len(), 2);
    let df = shell.rows("podman system df", "TYPE TOTAL ACTIVE SIZE RECLAIMABLE");
    assert!(df[0].starts_with("Images 1 1 ") && df[0].ends_with("0B (0%)"), "{df:?}");
    assert!(df[1].starts_with("Containers 1 1 "), "{df:?}");
    assert_eq!(df[2], "Local Volumes 0 0 0B 0B (0%)");
    shell.ok("podman stop --all; podman rm --all");
    shell.line("podman image prune -a").stdin("y\n").ok();
    assert_eq!(shell.rows("podman ps -a", PS), [""; 0]);
    assert_eq!(shell.rows("podman images", IMAGES), [""; 0]);
}

fn an_image_is_pulled_and_mounted(shell: &Shell) {
    let out = shell.line("podman pull docker.io/lefthand67/test1").run().expect(0);
    let out = out.says(&["Trying to pull docker.io/lefthand67/test1:latest..."]);
    let id = out.stdout.trim().to_owned();
    assert_eq!(id.len(), 64);
    shell.ok("podman pull -q docker.io/lefthand67/test1:1.0");
    let outside = shell
        .line("podman image mount docker.io/lefthand67/test1:1.0")
        .fails(125);
    outside.says(&["Error: ", "`dunlin unshare`"]);
    let session = "mnt=$(podman image mount docker.io/lefthand67/test1:1.0)\n\
                   cat $mnt/usr/local/apache2/htdocs/index.html\n\
                   podman image unmount docker.io/lefthand67/test1:1.0\nexit\n";
    let said = shell.line("podman unshare").stdin(session).ok();
    assert_eq!(said, format!("{PAGE}{id}"));
}

fn a_folder_of_the_host_is_shown(shell: &Shell) {
    let page = PAGE.replace("Rot Front", "No pasaran");
    shell.ok("podman run -d -p 8080:80 --name myapp docker.io/lefthand67/test1");
    shell.ok("podman stop myapp; podman rm myapp");
    shell.ok(&format!(
        "mkdir -p data/html; cat > data/html/index.html << _EOF\n{page}_EOF\n"
    ));
    let id = shell.ok(
        "podman run -d -v ./data/html:/usr/local/apache2/htdocs:ro,z -p 8080:80 --name myapp docker.io/lefthand67/test1",
    );
    wait_for(|| shell.browse(8080) == page);
    shell
        .line("podman exec myapp touch /usr/local/apache2/htdocs/x")
        .fails(1);
    shell.ok("echo new > data/html/index.html");
    assert_eq!(shell.browse(8080), "new\n");
    assert_eq!(shell.ok("podman rm --latest --force"), id);
    assert_eq!(shell.ok("cat data/html/index.html; rm -rf data"), "new");
    assert_eq!(shell.images().len(), 2);
}
