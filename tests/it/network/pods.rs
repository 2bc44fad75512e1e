//! Containers that share a network: `container:NAME`, and pods.

use super::*;
use crate::skip;

#[test]
fn a_container_joins_anothers_network() {
    for who in EVERYBODY {
        let world = match world(who) {
            Ok(world) => world,
            Err(reason) => skip!("{who:?}: {reason}"),
        };
        world
            .sh(
                "run -d --name owner -p 8080:80 --dns 9.9.9.9 --add-host db:192.0.2.7",
                WAITS,
            )
            .ok();
        let served = "while :; do echo from $(hostname) | nc -l -p 80; done";
        world
            .sh("run -d --name member -h other --network container:owner", served)
            .ok();
        let (owner, member) = (pid(&world, "owner"), pid(&world, "member"));
        let network = |pid: u32, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(network(owner, "net"), network(member, "net"), "{who:?}");
        for own in ["mnt", "pid", "ipc", "uts"] {
            assert_ne!(network(owner, own), network(member, own), "{who:?} {own}");
        }
        assert_eq!(helpers(&world).len(), 1, "{who:?}: the owner's");
        // What listens in the member is reached from the owner and through the owner's port.
        let said = world.cmd("exec owner sh -c").arg("sleep 5 | nc -w 5 127.0.0.1 80").ok();
        assert_eq!(said, "from other", "{who:?}");
        assert_eq!(world.cmd("port member").ok(), "80/tcp -> 0.0.0.0:8080", "{who:?}");
        let said = world.cmd("exec member cat /etc/resolv.conf /etc/hosts").ok();
        assert!(
            said.contains("nameserver 9.9.9.9") && said.contains("192.0.2.7\tdb"),
            "{who:?}: {said}"
        );
        let mode = world.field("member", "{{.HostConfig.NetworkMode}}");
        assert_eq!(
            mode,
            format!("container:{}", world.field("owner", "{{.Id}}")),
            "{who:?}"
        );

        world.cmd("rm -f -t 0 owner").fails(125).says(&["dependent containers"]);
        // A start brings up what it needs.
        world.cmd("stop -t 0 member owner").ok();
        world.cmd("start member").ok();
        assert_eq!(world.field("owner", "{{.State.Status}}"), "running", "{who:?}");
        world
            .sh("run --rm -p 80:80 --network container:owner", "true")
            .run()
            .expect(0)
            .says(&["discarded"]);
        world
            .sh("run --rm --network container:nobody", "true")
            .fails(125)
            .says(&["no such container"]);
        world.cmd("rm -f -t 0 member").ok();
        world.cmd("rm -f -t 0 owner").ok();
    }
}

#[test]
fn pods_share_network_names_and_objects() {
    for who in EVERYBODY {
        let world = match world(who) {
            Ok(world) => world,
            Err(reason) => skip!("{who:?}: {reason}"),
        };
        let id = world.cmd("pod create --name web -p 8080:80 --label a=b").ok();
        assert_eq!(id.len(), 64, "{who:?}");
        assert_eq!(
            world
                .cmd("pod ps --format")
                .arg("{{.Name}} {{.Status}} {{.NumberOfContainers}}")
                .ok(),
            "web Created 1"
        );
        world
            .sh(
                "run -d --pod web --name one",
                "while :; do echo $(hostname) | nc -l -p 80; done",
            )
            .ok();
        world.sh("run -d --pod web --name two", WAITS).ok();
        let link =
            |name: &str, kind: &str| std::fs::read_link(format!("/proc/{}/ns/{kind}", pid(&world, name))).unwrap();
        for kind in ["net", "ipc", "uts", "user"] {
            assert_eq!(link("one", kind), link("two", kind), "{who:?} {kind}");
        }
        for kind in ["mnt", "pid"] {
            assert_ne!(link("one", kind), link("two", kind), "{who:?} {kind}");
        }
        assert_eq!(helpers(&world).len(), 1, "{who:?}");
        assert_eq!(
            world.cmd("exec two sh -c").arg("sleep 5 | nc -w 5 127.0.0.1 80").ok(),
            "web",
            "{who:?}: the pod's name"
        );
        let answer = world.site().here(|| {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:8080").expect("published");
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut stream, &mut answer).map(|_| answer)
        });
        assert_eq!(answer.join().unwrap().unwrap(), "web\n", "{who:?}");
        assert_eq!(
            world
                .cmd("pod ps --format")
                .arg("{{.Status}} {{.NumberOfContainers}}")
                .ok(),
            "Running 3"
        );
        assert_eq!(
            world
                .cmd("ps --filter name=one --format")
                .arg("{{.PodName}} {{.Ports}}")
                .ok(),
            "web 0.0.0.0:8080->80/tcp"
        );
        let seen = world
            .cmd("pod inspect --format")
            .arg("{{.Name}} {{.State}} {{.NumContainers}} {{len .Containers}}")
            .arg("web");
        assert_eq!(seen.ok(), "web Running 3 3", "{who:?}");
        assert!(world.cmd("pod ps --filter status=exited -q").ok().is_empty());
        world
            .sh("run --rm --pod web -p 81:81", "true")
            .fails(125)
            .says(&["when the pod is created"]);
        world
            .sh("run --rm --pod nobody", "true")
            .fails(125)
            .says(&["no such pod"]);
        world.cmd("pod create --name web").fails(125);

        world.cmd("pod rm web").fails(125).says(&["--force"]);
        assert_eq!(world.cmd("pod stop -t 0 web").ok(), id);
        assert_eq!(
            (
                world.cmd("pod ps --format {{.Status}}").ok().as_str(),
                helpers(&world).len()
            ),
            ("Exited", 0),
            "{who:?}"
        );
        assert_eq!(world.cmd("pod start web").ok(), id);
        assert_eq!(
            link("one", "net"),
            link("two", "net"),
            "{who:?}: also when they were started again"
        );
        assert_eq!(world.cmd("pod rm -f -t 0").arg(&id[..12]).ok(), id);
        assert_eq!(
            (world.cmd("pod ps -q").ok(), world.cmd("ps -a -q").ok()),
            (String::new(), String::new()),
            "{who:?}"
        );
        assert_eq!(helpers(&world), [], "{who:?}");
    }
}

#[test]
fn networks_are_listed_with_podmans_columns() {
    let world = match world(Who::Single) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let said = world.cmd("network ls").ok();
    let head: Vec<&str> = said
        .lines()
        .next()
        .unwrap()
        .split("  ")
        .filter(|word| !word.is_empty())
        .map(str::trim)
        .collect();
    assert_eq!(head, ["NETWORK ID", "NAME", "DRIVER"]);
    assert_eq!(world.cmd("network ls -q").ok(), "host\nnone\nprivate");
    assert_eq!(
        world
            .cmd("network ls --filter name=ho --format {{.Name}}/{{.Driver}}")
            .ok(),
        "host/host"
    );
    let json: serde_json::Value = serde_json::from_str(&world.cmd("network ls --format json").ok()).unwrap();
    assert_eq!((json.as_array().unwrap().len(), &json[1]["name"]), (3, &"none".into()));
    world
        .cmd("network ls --filter colour=red")
        .fails(125)
        .says(&["name, id, driver"]);
    world.cmd("network create x").fails(125).says(&["network"]);
}
