//! volume create, ls, inspect, rm, prune and exists; container exists and prune.

use super::{EVERYBODY, Who, World};
use crate::skip;
use serde_json::Value;

#[test]
fn volumes_are_made_listed_and_removed() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        assert_eq!(world.cmd("volume create --label app=web data").ok(), "data", "{who:?}");
        let unnamed = world.cmd("volume create").ok();
        assert_eq!(unnamed.len(), 64, "{who:?}: {unnamed}");
        world
            .cmd("volume create data")
            .fails(125)
            .says(&["volume with name data already exists"]);
        world.cmd("volume create ../x").fails(125);
        world.cmd("volume create -o type=nfs x").fails(125).says(&["--opt"]);
        world.sh("run --name web -v data:/data", "echo x >/data/x").ok();
        assert_eq!(
            world.cmd("volume ls --filter name=data").ok(),
            "DRIVER      VOLUME NAME\nlocal       data",
            "{who:?}"
        );
        for (filter, want) in [
            ("dangling=true", &unnamed[..]),
            ("dangling=false", "data"),
            ("label=app", "data"),
            ("label=app=web", "data"),
            ("label=app=db", ""),
            ("label!=app", &unnamed),
            ("name=dat", "data"),
        ] {
            assert_eq!(
                world.cmd("volume ls -q --filter").arg(filter).ok(),
                want,
                "{who:?}: {filter}"
            );
        }
        world
            .cmd("volume ls --filter no=x")
            .fails(125)
            .says(&["no=x", "name, label"]);
        let place = world.cmd("volume inspect --format {{.Mountpoint}} data").ok();
        assert!(place.ends_with("volumes/data/_data"), "{who:?}: {place}");
        let shown: Value = serde_json::from_str(&world.cmd("volume inspect dat").ok()).unwrap();
        assert_eq!(shown[0]["Labels"]["app"], "web", "{who:?}: {shown}");
        assert_eq!(
            (&shown[0]["Driver"], &shown[0]["MountCount"]),
            (&"local".into(), &1.into())
        );
        assert_eq!(world.cmd("volume exists data").run().code, 0);
        assert_eq!(world.cmd("volume exists none").run().code, 1);
        // A volume in use stays; its users go with --force.
        world
            .cmd("volume rm data")
            .run()
            .expect(2)
            .says(&["data is being used", &world.field("web", "{{.Id}}")]);
        world.cmd("volume rm none").run().expect(1).says(&["no such volume"]);
        assert_eq!(world.cmd("volume prune -f").ok(), unnamed, "{who:?}");
        assert_eq!(world.cmd("volume rm -f data none").ok(), "data", "{who:?}");
        assert_eq!(world.cmd("container exists web").run().code, 1, "{who:?}");
        assert_eq!(world.cmd("volume ls -q").ok(), "", "{who:?}");
    }
}

#[test]
fn containers_that_ended_are_pruned() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world.sh("run --name old -l keep=no", "true").ok();
    world.sh("run --name kept -l keep=yes", "true").ok();
    world.sh("run -d --name web", "sleep 1000").ok();
    let old = world.field("old", "{{.Id}}");
    world.cmd("container prune").stdin("n\n").ok();
    assert_eq!(world.cmd("container prune -f --filter label=keep=no").ok(), old);
    assert_eq!(world.cmd("container exists web").run().code, 0);
    assert_eq!(world.cmd("ps -aq --filter name=kept").ok().len(), 12);
}
