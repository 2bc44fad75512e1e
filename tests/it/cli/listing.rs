//! ps, images, inspect, info, version: what they show and in which forms.

use super::flow::wait_for;
use super::{Who, World};
use crate::fixture::cmd::Cmd;
use crate::skip;
use serde_json::Value;

#[test]
fn names_are_unique_and_found_by_beginnings_of_ids() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let id = world.sh("create --name web", "true").ok();
    world
        .sh("create --name web", "true")
        .fails(125)
        .says(&["already in use", &id]);
    world
        .sh("run --name web", "true")
        .fails(125)
        .says(&["already in use", &id]);
    world.sh("create --name a/b", "true").fails(125).says(&["`a/b`"]);
    for typed in [id.as_str(), &id[..12], &id[..3], "web"] {
        assert_eq!(world.field(typed, "{{.Id}}"), id, "{typed}");
    }
    let made_up = world.sh("create", "true").ok();
    let name = world.field(&made_up, "{{.Name}}");
    assert!(name.contains('_'), "{name}");
    world.cmd("rename web other").ok();
    world.cmd("inspect web").fails(125);
    world
        .cmd(&format!("rename {name} other"))
        .fails(125)
        .says(&["already in use"]);
    assert_eq!(world.field("other", "{{.Id}}"), id);
    let replaced = world.sh("create --replace --name other", "true").ok();
    assert_ne!(replaced, id);
    assert_eq!(world.field("other", "{{.Id}}"), replaced);
}

#[test]
fn ps_filters_and_formats_as_podman_does() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world.sh("run --name done --label kind=job", "exit 3").fails(3);
    world.sh("run -d --name up --label kind=service", "sleep 1000").ok();
    world.sh("create --name fresh", "true").ok();
    let names = |args: &str| {
        let mut names: Vec<String> = world
            .cmd(args)
            .arg("--format")
            .arg("{{.Names}}")
            .ok()
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        names.join(" ")
    };
    for (args, want) in [
        ("ps", "up"),
        ("ps -a", "done fresh up"),
        ("ps -n 2", "fresh up"),
        ("ps -l", "fresh"),
        ("ps -a --filter status=exited", "done"),
        ("ps --filter status=created", "fresh"),
        ("ps -a --filter exited=3", "done"),
        ("ps -a --filter label=kind", "done up"),
        ("ps -a --filter label=kind=job", "done"),
        ("ps -a --filter name=^f", "fresh"),
        ("ps -a --filter name=up --filter name=done", "done up"),
        ("ps -a --filter name=up --filter label=kind=job", ""),
        ("ps -a --filter before=up", "done"),
        ("ps -a --filter network=none", "done fresh up"),
    ] {
        assert_eq!(names(args), want, "{args}");
    }
    assert_eq!(
        world
            .cmd("ps -a --noheading --filter name=done --format")
            .arg("table {{.Names}}\\t{{.State}}")
            .ok(),
        "done        exited"
    );
    assert_eq!(
        world
            .cmd("ps -a --filter name=done --format")
            .arg("table {{.Names}}\\t{{.State}}")
            .ok(),
        "NAMES       STATE\ndone        exited"
    );
    let json: Value = serde_json::from_str(&world.cmd("ps -a --format json").ok()).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 3);
    assert_eq!(json[0]["Names"][0], "fresh");
    let ids = world.cmd("ps -aq --no-trunc").ok();
    assert!(ids.lines().all(|id| id.len() == 64), "{ids}");
    world.cmd("ps --filter nope=1").fails(125).says(&["`nope`"]);
    world.cmd("ps --format").arg("{{.Nope}}").fails(125).says(&["`Nope`"]);
    let table = world.cmd("ps -a").ok();
    assert!(
        table
            .lines()
            .next()
            .is_some_and(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")
                == "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES"),
        "{table}"
    );
    for text in ["Exited (3) ", " ago", "Up ", "Created"] {
        assert!(table.contains(text), "{text}: {table}");
    }
}

#[test]
fn health_is_shown_where_it_is_judged() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let flags = "run -d --name web --health-interval 200ms --health-retries 2 --health-timeout 2s --health-cmd";
    world
        .cmd(flags)
        .arg("test -e /tmp/good")
        .arg(&world.image)
        .args(["sh", "-c", "touch /tmp/good; sleep 1000"])
        .ok();
    wait_for(|| world.field("web", "{{.State.Health.Status}}") == "healthy");
    let status = world.cmd("ps --format {{.Status}}").ok();
    assert!(status.starts_with("Up ") && status.ends_with(" (healthy)"), "{status}");
    world.cmd("exec web rm /tmp/good").ok();
    world.cmd("wait --condition unhealthy web").ok();
    assert_eq!(
        world.cmd("ps --filter health=unhealthy --format {{.Names}}").ok(),
        "web"
    );
    let log: Value = serde_json::from_str(&world.field("web", "{{json .State.Health.Log}}")).unwrap();
    assert!(
        log.as_array()
            .is_some_and(|log| log.iter().any(|probe| probe["ExitCode"] == 1)),
        "{log}"
    );
}

#[test]
fn inspect_shows_what_was_asked_for_and_what_is_enforced() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world.sh("create --name web -e A=1 -w /tmp -u 1000:1000 -h box --stop-signal USR1 --stop-timeout 3 --cap-drop all --read-only --security-opt no-new-privileges -v data:/data:ro", "true").ok();
    for (template, want) in [
        (
            "{{.Config.WorkingDir}} {{.Config.User}} {{.Config.Hostname}}",
            "/tmp 1000:1000 box",
        ),
        ("{{.Config.StopSignal}} {{.Config.StopTimeout}}", "10 3"),
        (
            "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.NetworkMode}} {{.HostConfig.SecurityOpt}}",
            "true none [no-new-privileges]",
        ),
        ("{{.EffectiveCaps}}", "[]"),
        (
            "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}}{{end}}",
            "volume data /data false",
        ),
        ("{{json .Config.Cmd}}", "[\"sh\",\"-c\",\"true\"]"),
        ("{{.State.Status}} {{.State.Running}} {{.State.Pid}}", "created false 0"),
        ("{{.Dunlin.Limits.pids.Origin}}", "default"),
    ] {
        assert_eq!(world.field("web", template), want, "{template}");
    }
    let env = world.field("web", "{{range .Config.Env}}{{println .}}{{end}}");
    assert!(env.contains("A=1") && env.contains("PATH=/"), "{env}");
    let image: Value = serde_json::from_str(&world.cmd("inspect --type image").arg(&world.image).ok()).unwrap();
    assert_eq!(image[0]["Id"], world.image.as_str());
    assert_eq!(image[0]["Os"], "linux");
    let volume: Value = serde_json::from_str(&world.cmd("inspect --type volume data").ok()).unwrap();
    assert!(
        volume[0]["Mountpoint"]
            .as_str()
            .is_some_and(|path| path.ends_with("volumes/data/_data"))
    );
}

#[test]
fn info_and_version_say_where_everything_is() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let (data, run) = world.roots();
    let info: Value = serde_json::from_str(&world.cmd("info --format json").ok()).unwrap();
    assert_eq!(info["store"]["graphRoot"], data.to_str().unwrap());
    assert_eq!(info["store"]["runRoot"], run.to_str().unwrap());
    assert_eq!(info["host"]["security"]["rootless"], true);
    assert_eq!(info["host"]["idMappings"]["uidmap"].as_array().map(Vec::len), Some(2));
    assert!(info["dunlin"]["keeper"]["pid"].as_i64().is_some_and(|pid| pid > 1));
    assert!(info["dunlin"]["limits"]["memory"]["enforced"].is_boolean());
    let text = world.cmd("info").ok();
    assert!(text.contains("\nhost:\n") && text.contains("cgroupVersion: "), "{text}");
    assert!(Cmd::dunlin().arg("version").ok().contains("Version:      "));
    assert_eq!(
        Cmd::dunlin().args(["version", "--format", "{{.Client.Version}}"]).ok(),
        env!("CARGO_PKG_VERSION")
    );
}

#[test]
fn images_are_named_listed_and_removed() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let table = world.cmd("images").ok();
    assert!(
        table.starts_with("REPOSITORY") && table.contains("IMAGE ID") && table.contains(&world.image[..12]),
        "{table}"
    );
    assert_eq!(world.cmd("images -q").ok(), world.image[..12]);
    assert_eq!(
        world.cmd("images -q --no-trunc").ok(),
        format!("sha256:{}", world.image)
    );
    assert_eq!(world.cmd("images -q --filter dangling=true").ok(), "");
    let json: Value = serde_json::from_str(&world.cmd("images --format json").ok()).unwrap();
    assert_eq!(json[0]["Id"], world.image.as_str());
    world.sh("create --name user", "true").ok();
    world.cmd("rmi").arg(&world.image).fails(2).says(&["in use"]);
    world.cmd("rmi nothing").fails(1).says(&["`nothing`"]);
    world.cmd("rmi --ignore nothing").ok();
    let removed = world.cmd("rmi -f").arg(&world.image).ok();
    assert!(removed.contains(&format!("Deleted: {}", world.image)), "{removed}");
    assert_eq!(world.cmd("ps -aq").ok(), "");
    let (data, _) = world.roots();
    assert!(
        super::names(&data.join("layers")).iter().all(|name| name.len() != 64),
        "layers went with the image"
    );
}
