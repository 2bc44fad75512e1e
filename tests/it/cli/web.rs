//! What comes from web servers that are no registries: the search of Docker Hub, and archives to import.

use super::{Who, World};
use crate::fixture::arch::Arch;
use crate::fixture::child::Running;
use crate::fixture::cmd::Cmd;
use crate::fixture::images::{Compression, busybox_layer, pack};
use crate::fixture::pki::Pki;
use crate::fixture::scratch::Scratch;
use crate::skip;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// The host that Docker Hub searches at; no test reaches the real one.
const HUB: &str = "index.docker.io";

/// A web server and proxy: plain and, behind CONNECT, as the hub. Serves a folder below `/files`, a redirect to it below
/// `/moved`, half of it below `/half`, and a search. Every request is a line of its log.
const SERVER: &str = r#"
import json, os, socket, ssl, sys, threading, urllib.parse
folder, cert, key = sys.argv[1:4]
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(cert, key)
log = open(os.path.join(folder, "log"), "a", buffering=1)
ALL = [{"name": "postgres", "description": "The PostgreSQL object-relational database system provides reliability",
        "star_count": 13000, "is_official": True, "is_automated": False},
       {"name": "bitnami/postgresql", "description": "Bitnami\nimage", "star_count": 200, "is_official": False, "is_automated": True},
       {"name": "small/postgres", "description": None, "star_count": 2, "is_official": False, "is_automated": False}]

def head(conn):
    data = b""
    while b"\r\n\r\n" not in data:
        got = conn.recv(4096)
        if not got or got[0] == 0x16 and not data:
            return None
        data += got
    return data.split(b"\r\n")[0].decode().split(" ")[:2]

def say(conn, status, body=b"", more="", length=None):
    conn.sendall(("HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n%s\r\n"
                  % (status, len(body) if length is None else length, more)).encode() + body)

def serve(conn, host="-"):
    asked = head(conn)
    if asked is None:
        return say(conn, "400 Bad Request")
    method, target = asked
    log.write("%s %s %s\n" % (host, method, target))
    if method == "CONNECT":
        conn.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        with tls.wrap_socket(conn, server_side=True) as inner:
            serve(inner, target)
        return
    at = urllib.parse.urlsplit(target)
    query = urllib.parse.parse_qs(at.query)
    name = os.path.join(folder, os.path.basename(at.path))
    if at.path == "/v1/search":
        say(conn, "200 OK", json.dumps({"results": [one for one in ALL if query["q"][0] in one["name"]]}).encode())
    elif at.path.startswith("/files/") and os.path.exists(name):
        say(conn, "200 OK", open(name, "rb").read())
    elif at.path.startswith("/half/"):
        body = open(name, "rb").read()
        say(conn, "200 OK", body[:len(body) // 2], length=len(body))
    elif at.path.startswith("/moved/"):
        say(conn, "302 Found", more="Location: /files/%s\r\n" % os.path.basename(name))
    else:
        say(conn, "404 Not Found")

def one(conn):
    try:
        with conn:
            serve(conn)
    except OSError:
        pass

listener = socket.create_server(("127.0.0.1", 0))
with open(os.path.join(folder, "port.new"), "w") as file:
    file.write(str(listener.getsockname()[1]))
os.rename(os.path.join(folder, "port.new"), os.path.join(folder, "port"))
while True:
    threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()
"#;

struct Web {
    _child: Running,
    folder: Scratch,
    /// `127.0.0.1:PORT`.
    host: String,
}

impl Web {
    /// Starts it; `certs` gets the certificate of the authority that vouches for it.
    fn new(world: &World) -> Web {
        let folder = Scratch::new("web");
        let pki = Pki::new(&folder.join("pki"));
        let hub = pki.host(HUB);
        let certs = world.folder("certs");
        fs::copy(pki.ca(), certs.join("ca.crt")).unwrap();
        fs::set_permissions(certs.join("ca.crt"), fs::Permissions::from_mode(0o644)).unwrap();
        let server = Cmd::new("/usr/bin/python3").args(["-c", SERVER]).arg(folder.path());
        let child = server.arg(&hub.cert).arg(&hub.key).start();
        let end = Instant::now() + Duration::from_secs(20);
        let port = loop {
            if let Ok(port) = fs::read_to_string(folder.join("port")) {
                break port;
            }
            assert!(Instant::now() < end, "the server came up");
            std::thread::sleep(Duration::from_millis(20));
        };
        Web {
            _child: child,
            folder,
            host: format!("127.0.0.1:{port}"),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

#[test]
fn docker_hub_is_searched_by_its_own_search() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let web = Web::new(&world);
    let search = |words: &str, term: &str| {
        let cmd = world
            .cmd("search")
            .args(words.split(' ').filter(|word| !word.is_empty()));
        cmd.arg("--cert-dir")
            .arg(world.folder("certs"))
            .arg(term)
            .env("HTTPS_PROXY", format!("http://{}", web.host))
    };
    let out = search("", "docker.io/postgres").ok();
    let lines: Vec<String> = out
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "NAME DESCRIPTION",
            "docker.io/library/postgres The PostgreSQL object-relational database sy...",
            "docker.io/bitnami/postgresql Bitnami image",
            "docker.io/small/postgres",
        ]
    );
    assert_eq!(
        web.log(),
        format!("- CONNECT {HUB}:443\n{HUB}:443 GET /v1/search?q=postgres&n=25\n")
    );
    let names = |words: &str| search(&format!("{words} --format {{{{.Name}}}}"), "docker.io/postgres").ok();
    assert_eq!(names("--limit 1"), "docker.io/library/postgres");
    assert!(web.log().ends_with("n=1\n"), "{}", web.log());
    assert_eq!(names("--filter is-official=true"), "docker.io/library/postgres");
    assert_eq!(
        names("--filter is-official=false --filter stars=100"),
        "docker.io/bitnami/postgresql"
    );
    assert_eq!(names("--filter is-automated"), "docker.io/bitnami/postgresql");
    let whole = search(
        "--no-trunc --format {{.Stars}}|{{.Official}}|{{.Automated}}|{{.Description}}",
        "docker.io/postgres",
    )
    .ok();
    let first = whole.lines().next().unwrap_or_default();
    assert_eq!(
        first,
        "13000|[OK]||The PostgreSQL object-relational database system provides reliability"
    );
    let json: Value = serde_json::from_str(&search("--format json", "docker.io/postgres").ok()).unwrap();
    assert_eq!(json[0]["Stars"], 13000);
    search("--filter stars=x", "docker.io/postgres")
        .fails(125)
        .says(&["stars=NUMBER"]);
    search("--filter nope=1", "docker.io/postgres")
        .fails(125)
        .says(&["invalid filter"]);
    // Who is not the hub is not believed to be.
    let strange = world
        .cmd("search docker.io/postgres")
        .env("HTTPS_PROXY", format!("http://{}", web.host));
    strange.fails(125).says(&[HUB, "certificate"]);
    // Other registries that have no list of all are asked in the same way.
    let other = world
        .cmd("search --format {{.Name}}")
        .arg(format!("{}/small", web.host))
        .ok();
    assert_eq!(other, format!("{}/small/postgres", web.host));
    assert!(
        web.log()
            .contains("- GET /v2/_catalog?n=25\n- GET /v1/search?q=small&n=25\n"),
        "{}",
        web.log()
    );
}

#[test]
fn an_archive_is_imported_from_a_web_server() {
    for who in [Who::Ranges, Who::Root] {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let web = Web::new(&world);
        let tar = busybox_layer(Arch::host());
        fs::write(web.folder.join("rootfs.tar"), &tar).unwrap();
        fs::write(
            web.folder.join("rootfs.tar.gz"),
            pack(&tar, Compression::Gzip, false).bytes,
        )
        .unwrap();
        let import = |path: &str, name: &str| {
            world
                .cmd("import -q -c")
                .arg(r#"CMD ["echo","hello"]"#)
                .arg(format!("http://{}/{path}", web.host))
                .arg(name)
        };
        let plain = import("files/rootfs.tar", "web:plain").ok();
        assert_eq!(plain.len(), 64, "{who:?}: {plain}");
        import("files/rootfs.tar.gz", "web:gz").ok();
        import("moved/rootfs.tar.gz", "web:moved").ok();
        for name in ["web:plain", "web:gz", "web:moved"] {
            assert_eq!(world.cmd("run --rm").arg(name).ok(), "hello", "{who:?}: {name}");
        }
        let layer = |name: &str| world.cmd("image inspect --format {{.RootFS.Layers}}").arg(name).ok();
        assert_eq!(layer("web:plain"), layer("web:gz"), "{who:?}");
        // Half of it makes no image; neither does what is not there.
        import("half/rootfs.tar", "web:half").fails(125);
        import("half/rootfs.tar.gz", "web:half").fails(125);
        import("files/nope", "web:half").fails(125).says(&["nope"]);
        world.cmd("image exists web:half").fails(1);
        // By the proxy, which is asked for the whole URL, or for a way there that TLS is spoken through.
        let proxied = world.cmd("import -q http://files.example/files/rootfs.tar.gz web:proxied");
        proxied.env("http_proxy", format!("http://{}", web.host)).ok();
        assert!(
            web.log().contains(" http://files.example/files/rootfs.tar.gz\n"),
            "{}",
            web.log()
        );
        let strange = world.cmd("import -q").arg(format!("https://{HUB}/files/rootfs.tar.gz"));
        strange
            .env("https_proxy", format!("http://{}", web.host))
            .fails(125)
            .says(&[HUB, "certificate"]);
        world.cmd("system check").ok();
    }
}
