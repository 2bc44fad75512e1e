//! Ports of the host that lead into containers.

use super::*;
use crate::skip;
use sha2::{Digest as _, Sha256};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::channel;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server in a container's network that sends back what it gets, a connection at a time per thread; returns when it listens.
fn echo(pid: u32, at: &'static str) {
    let (sender, listens) = channel();
    within(pid, move || {
        let listener = TcpListener::bind(at).expect("nobody else is there");
        sender.send(()).expect("the test waits");
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut copy = stream.try_clone().expect("a descriptor");
                let _ = std::io::copy(&mut stream, &mut copy);
                let _ = copy.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    listens.recv_timeout(PATIENCE).expect("it listens");
}

/// What comes back for a text from a server that sends back what it gets.
fn ask(at: &str, text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn ports_lead_into_the_container_and_are_shown() {
    for who in EVERYBODY {
        let world = match world(who) {
            Ok(world) => world,
            Err(reason) => skip!("{who:?}: {reason}"),
        };
        let flags = "run -d --name web -p 8080:80 -p [::1]:8081:81 -p 127.0.0.1:9000-9002:7000-7002 -p 5300:5353/udp";
        world.sh(flags, WAITS).ok();
        let inside = pid(&world, "web");
        for at in ["0.0.0.0:80", "[::]:81", "0.0.0.0:7000", "0.0.0.0:7002"] {
            echo(inside, at);
        }
        let (sender, listens) = channel();
        within(inside, move || {
            let socket = UdpSocket::bind("0.0.0.0:5353").expect("free");
            sender.send(()).expect("the test waits");
            let mut packet = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let _ = socket.send_to(&packet[..length], from);
            }
        });
        listens.recv_timeout(PATIENCE).expect("it listens");

        let site = world.site();
        let tcp = site.here(|| {
            [
                "127.0.0.1:8080",
                "198.51.100.2:8080",
                "[::1]:8081",
                "127.0.0.1:9000",
                "127.0.0.1:9002",
            ]
            .map(|at| (at, ask(at, at).unwrap_or_else(|error| error.to_string())))
        });
        for (at, answer) in tcp.join().expect("it ends") {
            assert_eq!(answer, at, "{who:?}");
        }
        // From another machine.
        assert_eq!(
            site.far(|| ask("198.51.100.2:8080", "far").unwrap()).join().unwrap(),
            "far",
            "{who:?}"
        );
        assert!(
            site.far(|| ask("198.51.100.2:9000", "far").is_err()).join().unwrap(),
            "{who:?}: only on loopback"
        );
        let udp = site.here(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            socket
                .set_read_timeout(Some(Duration::from_millis(500)))
                .expect("a time");
            socket.connect("127.0.0.1:5300").expect("local");
            let mut answer = [0; 2048];
            // A datagram may be lost.
            (0..20).find_map(|_| {
                socket.send(&[7; 1200]).ok()?;
                socket
                    .recv(&mut answer)
                    .ok()
                    .map(|length| answer[..length] == [7; 1200])
            })
        });
        assert_eq!(udp.join().unwrap(), Some(true), "{who:?}: UDP");

        let shown =
            "0.0.0.0:8080->80/tcp, [::1]:8081->81/tcp, 127.0.0.1:9000-9002->7000-7002/tcp, 0.0.0.0:5300->5353/udp";
        assert_eq!(world.cmd("ps --format {{.Ports}}").ok(), shown);
        let top = world.cmd("top web").ok();
        assert!(
            top.contains("trap") && !top.contains("pasta"),
            "its own processes alone: {top}"
        );
        assert_eq!(world.cmd("port web 81").ok(), "[::1]:8081");
        assert_eq!(world.cmd("port web 5353/udp").ok(), "0.0.0.0:5300");
        assert_eq!(world.cmd("port web").ok().lines().count(), 6);
        assert!(world.cmd("port web").ok().contains("7001/tcp -> 127.0.0.1:9001"));
        world.cmd("port web 9999").fails(125).says(&["no port `9999`"]);
        let json = world.field("web", "{{json .NetworkSettings.Ports}}");
        assert!(json.contains(r#""80/tcp":[{"HostIp":"","HostPort":"8080"}]"#), "{json}");
        let json = world.field("web", "{{json .HostConfig.PortBindings}}");
        assert!(
            json.contains(r#""5353/udp":[{"HostIp":"","HostPort":"5300"}]"#),
            "{json}"
        );
        assert_eq!(world.field("web", "{{.HostConfig.NetworkMode}}"), "private");
    }
}

#[test]
fn a_gibibyte_comes_through_whole_and_many_at_once_too() {
    const BYTES: usize = 1 << 30;
    const CONNECTIONS: usize = 64;
    let world = match world(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world.sh("run -d --name web -p 8080:80 -p 8081:81", WAITS).ok();
    let inside = pid(&world, "web");
    let (sender, listens) = channel();
    let sent = within(inside, move || {
        let listener = TcpListener::bind("0.0.0.0:80").expect("free");
        sender.send(()).expect("the test waits");
        let (mut stream, _) = listener.accept().expect("a client");
        let mut hash = Sha256::new();
        let mut block = vec![0_u8; 1 << 20];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..BYTES / block.len() {
            for word in block.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            hash.update(&block);
            stream.write_all(&block).expect("the client reads");
        }
        <[u8; 32]>::from(hash.finalize())
    });
    listens.recv_timeout(PATIENCE).expect("it listens");
    let received = world.site().here(|| {
        let mut stream = TcpStream::connect("127.0.0.1:8080").expect("published");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        let (mut hash, mut all, mut block) = (Sha256::new(), 0, vec![0; 1 << 20]);
        loop {
            match stream.read(&mut block).expect("it sends") {
                0 => return (<[u8; 32]>::from(hash.finalize()), all),
                got => {
                    hash.update(&block[..got]);
                    all += got;
                }
            }
        }
    });
    assert_eq!(received.join().unwrap(), (sent.join().unwrap(), BYTES));

    echo(inside, "0.0.0.0:81");
    let site = world.site();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let text = format!("{number} ").repeat(10_000);
            // Every other one comes from another machine.
            let at = ["127.0.0.1:8081", "198.51.100.2:8081"][number % 2];
            let work = move || ask(at, &text).map(|answer| answer == text);
            if number % 2 == 0 {
                site.here(work)
            } else {
                site.far(work)
            }
        })
        .collect();
    for client in clients {
        assert!(client.join().unwrap().expect("served"), "its own text");
    }
}

#[test]
fn ports_that_cannot_be_had_are_refused_before_anything_runs() {
    for who in EVERYBODY {
        let world = match world(who) {
            Ok(world) => world,
            Err(reason) => skip!("{who:?}: {reason}"),
        };
        let (held, free) = channel::<()>();
        let (sender, holds) = channel();
        let holder = world.site().here(move || {
            let _tcp = TcpListener::bind("0.0.0.0:8080").expect("free");
            let _udp = UdpSocket::bind("127.0.0.1:5353").expect("free");
            sender.send(()).expect("the test waits");
            let _ = free.recv_timeout(PATIENCE);
        });
        holds.recv_timeout(PATIENCE).expect("it holds");
        let mark = world.folder("mark");
        let bind = format!("-v {}:/mark", mark.display());
        for (port, says) in [
            ("8080:80", "publish port `0.0.0.0:8080/tcp`: address already in use"),
            ("8079-8081:79-81", ":8080/tcp`: address already in use"),
            ("5353:53/udp", "5353/udp`: address already in use"),
            ("198.51.100.77:8082:80", "no such address"),
            ("81:81", "sysctl net.ipv4.ip_unprivileged_port_start=81"),
        ] {
            let out = world
                .sh(&format!("run --rm {bind} -p {port}"), "touch /mark/ran")
                .fails(125);
            out.says(&[says]);
        }
        assert!(!mark.join("ran").exists(), "{who:?}: nothing ran");
        let kept = world.cmd("ps -a -q").ok();
        assert_eq!(kept, "", "{who:?}");
        drop(held);
        holder.join().unwrap();
        // With the sysctl that the message names it works.
        world.site().host("sysctl -qw net.ipv4.ip_unprivileged_port_start=81");
        world.sh("run --rm -p 81:81", "true").ok();
        world.sh("run --rm -p 8080:80", "true").ok();
    }
}

#[test]
fn ports_left_open_and_ports_of_the_image_are_chosen() {
    let world = match world(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world.sh("run -d --name one -P", WAITS).ok();
    world.sh("run -d --name two -p 80 -p 127.0.0.1::81", WAITS).ok();
    for (name, inside) in [("one", "80"), ("one", "53/udp"), ("two", "80"), ("two", "81")] {
        let outside = world.cmd("port").args([name, inside]).ok();
        let port: u16 = outside.rsplit(':').next().unwrap().parse().unwrap();
        assert!(port >= 1024, "{name} {inside}: {outside}");
        assert_eq!(outside.starts_with("127.0.0.1:"), inside == "81", "{outside}");
    }
    echo(pid(&world, "two"), "0.0.0.0:80");
    let outside = world.cmd("port two 80").ok();
    let answer = world
        .site()
        .here(move || ask(&outside.replace("0.0.0.0", "127.0.0.1"), "hello").unwrap());
    assert_eq!(answer.join().unwrap(), "hello");

    let out = world.sh("run --rm --network host -p 8080:80", "true").run().expect(0);
    out.says(&["Port mappings have been discarded"]);
    let twice = world.sh("create -p 8080:80 -p 8080:81", "true").fails(125);
    twice.says(&["want the same port of the host"]);
}

#[test]
fn a_stop_frees_the_port_and_leaves_no_helper() {
    for who in [Who::Ranges, Who::Root] {
        let world = match world(who) {
            Ok(world) => world,
            Err(reason) => skip!("{who:?}: {reason}"),
        };
        for round in ["stop", "restart", "rm", "end", "monitor"] {
            let name = format!("c-{round}");
            world.sh(&format!("run -d --name {name} -p 8080:80"), WAITS).ok();
            let inside = pid(&world, &name);
            assert_eq!(helpers(&world).len(), 1, "{who:?} {round}: {:?}", helpers(&world));
            match round {
                "stop" => _ = world.cmd(&format!("stop {name}")).ok(),
                "restart" => {
                    world.cmd(&format!("restart {name}")).ok();
                    assert_eq!(helpers(&world).len(), 1, "{who:?}: after the restart");
                    world.cmd(&format!("stop {name}")).ok();
                }
                "rm" => _ = world.cmd(&format!("rm -f {name}")).ok(),
                "end" => {
                    world.cmd(&format!("kill {name}")).ok();
                    world.cmd(&format!("wait {name}")).ok();
                }
                _ => {
                    let monitor = world.field(&name, "{{.State.ConmonPid}}");
                    world.site().host(&format!("kill -KILL {monitor}"));
                    wait("the container ends with its monitor", || {
                        !std::path::Path::new(&format!("/proc/{inside}")).exists()
                    });
                }
            }
            // The kernel's own work after a monitor's death takes a moment; after a stop nothing may be left.
            if round == "monitor" || round == "end" {
                wait("its helper ends", || helpers(&world).is_empty());
            }
            assert_eq!(helpers(&world), [], "{who:?} {round}");
            let free = world.site().here(|| TcpListener::bind("0.0.0.0:8080").map(drop));
            free.join()
                .unwrap()
                .unwrap_or_else(|error| panic!("{who:?} {round}: {error}"));
        }
        assert_eq!(world.cmd("ps -q").ok(), "", "{who:?}");
    }
}

#[test]
fn a_container_that_starts_again_has_its_network_again_and_one_cut_off_ends() {
    let world = match world(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let flags = "run -d --name again --restart always --health-tcp 80 --health-interval 1s -p 8080:80";
    world.sh(flags, WAITS).ok();
    let first = pid(&world, "again");
    echo(first, "0.0.0.0:80");
    let healthy = |name: &str| world.field(name, "{{.State.Health.Status}}") == "healthy";
    wait("it is healthy", || healthy("again"));
    world.cmd("kill again").ok();
    wait("it runs again", || {
        let state = world.field("again", "{{.State.Status}} {{.State.Pid}}");
        let ended = [format!("running {first}"), "running 0".to_owned()];
        state.starts_with("running ") && !ended.contains(&state)
    });
    let second = pid(&world, "again");
    assert_eq!(helpers(&world).len(), 1, "{:?}", helpers(&world));
    echo(second, "0.0.0.0:80");
    wait("it is healthy again", || healthy("again"));
    let answer = world.site().here(|| ask("127.0.0.1:8080", "again").unwrap());
    assert_eq!(answer.join().unwrap(), "again");

    world.cmd("rm -f -t 0 again").ok();
    world.sh("run -d --name cut --network private", WAITS).ok();
    let (helper, _) = helpers(&world).pop().expect("one");
    world.site().host(&format!("kill -KILL {helper}"));
    wait("it ends", || world.field("cut", "{{.State.Status}}") == "exited");
    let error = world.field("cut", "{{.State.Error}}");
    assert!(error.contains("helper of its network"), "{error}");
    assert_eq!(world.field("cut", "{{.State.ExitCode}}"), "137");
}
