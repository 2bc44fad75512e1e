//! Ways out of containers, names, and what is said where there are none.

use super::*;
use crate::fixture::site::{FAR, FAR_V6, HERE, Site, name_server};
use crate::skip;
use std::io::{Read, Write};
use std::net::TcpListener;

/// Fetches `HOST PORT` in a container, the host as an address or as a name of its hosts file or name server; the image's own way to look
/// up names needs files that it does not have.
fn page(at: &str) -> String {
    let (host, port) = at.split_once(' ').expect("HOST PORT");
    format!(
        "at={host}; known=$(awk -v n=$at '$2 == n {{print $1}}' /etc/hosts); \
         case $at in *[a-z]*) case $at in *:*) ;; *) at=${{known:-$(nslookup -type=a $at | tail -n 2 | awk '/^Address/{{print $2}}')}};; esac;; esac; \
         (printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 1) | timeout 10 nc -w 5 $at {port} | tail -n 1"
    )
}

/// A web server for one page at a time, on these addresses, for two minutes at most.
fn web(at: &'static str, page: &'static str) -> impl FnOnce() + Send + 'static {
    move || {
        let listener = TcpListener::bind(at).expect("nobody else is there");
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
            let _ = stream.write_all(head.as_bytes());
        }
    }
}

/// Port 8080 of the host leads to who sends back what it gets.
fn assert_echo(site: &Site) {
    let answer = site.here(|| {
        let mut stream = std::net::TcpStream::connect("127.0.0.1:8080").expect("published");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time");
        stream.write_all(b"hello").expect("it reads");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).map(|()| answer)
    });
    assert_eq!(answer.join().unwrap().unwrap(), *b"hello");
}

#[test]
fn containers_reach_out_and_know_names() {
    for who in EVERYBODY {
        let world = match world(who) {
            Ok(world) => world,
            Err(reason) => skip!("{who:?}: {reason}"),
        };
        let site = world.site();
        site.far(web("0.0.0.0:80", "four"));
        site.far(web("[::]:81", "six"));
        site.far(name_server("0.0.0.0:53"));
        site.here(web("198.51.100.2:8000", "host"));
        site.here(web("127.0.0.1:8001", "loopback"));
        site.here(name_server("127.0.0.53:53"));
        let get = |flags: &str, url: &str| world.sh(&format!("run --rm {flags}"), &page(url)).run();
        // Private is what nobody needs to ask for.
        assert_eq!(get("", &format!("{FAR} 80")).expect(0).stdout, "four", "{who:?}");
        assert_eq!(get("", &format!("{FAR_V6} 81")).expect(0).stdout, "six", "{who:?}");
        assert_eq!(get("", "web.test 80").expect(0).stdout, "four", "{who:?}: by name");
        assert_eq!(
            get("", "host.containers.internal 8000").expect(0).stdout,
            "host",
            "{who:?}"
        );
        // The host's loopback is the host's, unless somebody says otherwise.
        assert_eq!(get("", "10.0.2.2 8001").stdout, "", "{who:?}");
        let open = get("--network pasta:--map-gw", "host.containers.internal 8001");
        assert_eq!(open.expect(0).stdout, "loopback", "{who:?}");
        // A name server on the host's loopback is asked through the helper.
        site.resolv_conf("nameserver 127.0.0.53\noptions edns0\n");
        assert_eq!(
            get("", "web.test 80").expect(0).stdout,
            "four",
            "{who:?}: by the host's own name server"
        );
        let said = world.sh("run --rm", "cat /etc/resolv.conf").ok();
        assert_eq!(said, "nameserver 10.0.2.3\noptions edns0", "{who:?}");
    }
}

#[test]
fn slirp4netns_does_the_same_where_it_is_asked_for() {
    let world = match world(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let site = world.site();
    site.far(web("0.0.0.0:80", "four"));
    site.far(name_server("0.0.0.0:53"));
    site.here(web("127.0.0.1:8001", "loopback"));
    let get = |flags: &str, url: &str| world.sh(&format!("run --rm {flags}"), &page(url)).run();
    assert_eq!(get("--network slirp4netns", "web.test 80").expect(0).stdout, "four");
    let open = get("--network slirp4netns:allow_host_loopback=true", "10.0.2.2 8001");
    assert_eq!(open.expect(0).stdout, "loopback");
    world
        .sh(
            "run -d --name web --network slirp4netns -p 8080:80",
            "nc -l -p 80 -e cat",
        )
        .ok();
    assert!(helpers(&world).iter().any(|(_, line)| line.contains("slirp4netns")));
    assert_echo(site);
    world.cmd("rm -f -t 0 web").ok();
    assert_eq!(helpers(&world), []);
    world
        .sh("run --rm --network slirp4netns -p [::1]:8080:80", "true")
        .fails(125)
        .says(&["passt"]);
}

#[test]
fn files_say_what_was_asked_for() {
    for who in [Who::Ranges, Who::Root] {
        let world = match world(who) {
            Ok(world) => world,
            Err(reason) => skip!("{who:?}: {reason}"),
        };
        let flags = "run --rm --name c -h box --dns 9.9.9.9 --dns 2620:fe::fe --dns-search lan --dns-opt ndots:2 --add-host db:192.0.2.7 \
                     --add-host up:host-gateway";
        let said = world.sh(flags, "cat /etc/resolv.conf /etc/hosts; hostname").ok();
        assert_eq!(
            said,
            format!(
                "search lan\nnameserver 9.9.9.9\nnameserver 2620:fe::fe\noptions ndots:2\n127.0.0.1\tlocalhost\n::1\tlocalhost\n\
                 192.0.2.7\tdb\n{HERE}\tup\n{HERE}\thost.containers.internal host.docker.internal\n10.0.2.100\tbox c\nbox"
            ),
            "{who:?}"
        );
        let said = world
            .sh("run --rm", "cat /etc/resolv.conf; ip -4 -o addr show eth0; ip route")
            .ok();
        assert!(said.starts_with("search test\nnameserver 198.51.100.1\n"), "{said}");
        assert!(
            said.contains("10.0.2.100/24") && said.contains("default via 10.0.2.2"),
            "{said}"
        );
        let said = world
            .sh("run --rm --network none", "ip -o link; ls /etc/resolv.conf || true")
            .ok();
        assert_eq!(said.lines().count(), 1, "loopback alone: {said}");
        let said = world
            .sh(
                "run --rm --network host --dns 9.9.9.9",
                "ip -o link show up0; cat /etc/resolv.conf",
            )
            .ok();
        assert!(said.contains("up0") && said.contains("nameserver 9.9.9.9"), "{said}");
    }
}

#[test]
fn without_a_way_out_containers_start_nevertheless() {
    let world = match world(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let site = world.site();
    site.host("ip link set up0 down");
    world
        .sh("run -d --name early -p 8080:80", "while :; do nc -l -p 80 -e cat; done")
        .ok();
    assert_echo(site);
    // The way out comes later, as on a device that boots faster than its modem.
    site.far(web("0.0.0.0:80", "late"));
    site.host(&format!("ip link set up0 up; ip route add default via {FAR}"));
    let page = world.cmd("exec early sh -c").arg(page(&format!("{FAR} 80"))).ok();
    assert_eq!(page, "late");
}

#[test]
fn a_host_without_helper_or_device_says_so() {
    let world = match world(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let site = world.site();
    // The device is closed: said once by who asks for nothing, each time by who asks for a network.
    site.host("chmod 0600 /dev/net/tun");
    let first = world.sh("run --rm", "ip -o link").run().expect(0);
    assert_eq!(first.stdout.lines().count(), 1, "loopback alone: {}", first.stdout);
    let again = world.sh("run --rm", "true").run().expect(0).stderr;
    first.says(&["no network but loopback", "/dev/net/tun", "chmod 666"]);
    assert!(!again.contains("loopback"), "{again}");
    let out = world.sh("run --rm --network private", "true").fails(125);
    out.says(&["pasta", "/dev/net/tun", "chmod 666"]);
    assert_eq!(world.cmd("ps -a -q").ok(), "");
    site.host("chmod 0666 /dev/net/tun");

    for name in ["pasta", "slirp4netns"] {
        site.host(&format!("mount --bind /dev/null $(command -v {name})"));
    }
    world
        .sh("run --rm --network private", "true")
        .fails(125)
        .says(&["`passt`", "`slirp4netns`"]);
    world.sh("create --network pasta", "true").fails(125).says(&["`passt`"]);
    world.sh("create -p 80:80", "true").fails(125).says(&["`passt`"]);
    world.sh("run --rm", "true").ok();
}
