//! events: what happened, told by whoever did it.

use super::{EVERYBODY, Who, World};
use crate::skip;
use serde_json::Value;

#[test]
fn what_happens_is_told_once_in_order() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let words = |filter: &str| {
            let text = world
                .cmd("events --stream=false --format")
                .arg("{{.Type}} {{.Status}} {{.Name}}");
            text.args(["--filter", filter]).ok()
        };
        world.sh("run -d --name web", "sleep 1000").ok();
        // Users have no control groups here.
        let frozen = if who == Who::Root {
            "container pause web\ncontainer unpause web\n"
        } else {
            ""
        };
        if who == Who::Root {
            world.cmd("pause web").ok();
            world.cmd("unpause web").ok();
        }
        world.cmd("exec web true").ok();
        world.cmd("rename web site").ok();
        world.cmd("stop -t 0 site").ok();
        world.cmd("rm site").ok();
        let told = words("type=container");
        let want = format!(
            "container create web\ncontainer start web\n{frozen}container exec web\ncontainer rename site\n\
             container died site\ncontainer stop site\ncontainer remove site"
        );
        assert_eq!(told, want, "{who:?}");
        // A run that removes itself, and how it ended.
        assert_eq!(world.sh("run --rm --name brief", "exit 3").run().code, 3);
        super::flow::wait_for(|| words("container=brief").ends_with("remove brief"));
        assert_eq!(
            words("container=brief"),
            "container create brief\ncontainer start brief\ncontainer died brief\ncontainer remove brief",
            "{who:?}"
        );
        let died = world
            .cmd("events --no-stream --format json --filter event=died --filter container=brief")
            .ok();
        let died: Value = serde_json::from_str(&died).unwrap_or_else(|e| panic!("{who:?}: {e}: {died}"));
        assert_eq!(
            (&died["ContainerExitCode"], &died["Type"]),
            (&3.into(), &"container".into()),
            "{who:?}"
        );
        assert!(
            died["Image"].as_str().is_some_and(|image| !image.is_empty()),
            "{who:?}: {died}"
        );
        world.cmd("volume create data").ok();
        world.cmd("volume rm data").ok();
        assert_eq!(
            words("volume=data"),
            "volume create data\nvolume remove data",
            "{who:?}"
        );
        world.cmd("tag").arg(&world.image).arg("other.example/x:1").ok();
        assert!(words("event=tag").contains("other.example/x:1"), "{who:?}");
        assert_eq!(
            world.cmd("events --since 1s --until 0s --filter event=nothing").ok(),
            "",
            "{who:?}"
        );
        world.cmd("events --filter nope=1").fails(125).says(&["nope=1"]);
        world.cmd("events --since never").fails(125).says(&["--since"]);
    }
}

#[test]
fn a_stream_shows_what_happens_from_then_on() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world.sh("run --name before", "true").ok();
    let mut stream = world.cmd("events --format").arg("{{.Status}}-{{.Name}}").start();
    // It begins with what happens from its start on.
    std::thread::sleep(std::time::Duration::from_millis(500));
    world.sh("run --name after", "true").ok();
    stream.wait_for("died-after", std::time::Duration::from_secs(20));
    assert!(!stream.output().contains("before"), "{}", stream.output());
}
