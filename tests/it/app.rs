//! `dunlin app` and `dunlin explain`, with a running agent and without one.

use serde_json::{Value, json};

use crate::device::{Device, LONG, Setup};
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::tree::Tree;

/// An app document that sleeps and answers its health check with `health`.
fn document(name: &str, image: &str, health: &str) -> String {
    format!(
        "name = '{name}'\nimage = '{image}'\ncommand = ['sh', '-c', 'trap \"exit 0\" TERM; sleep 100000 & wait']\n\
         health = {{ exec = ['{health}'], interval = '300ms', start_interval = '100ms', timeout = '5s', failures = 3 }}\n\
         update = {{ soak = '1s' }}\n"
    )
}

fn image(device: &Device, version: &str) -> String {
    let labels = json!({"version": version});
    let index = Index::each(Format::Oci, |recipe| recipe.config("Labels", labels.clone()));
    device.registry.push("web", version, &index)
}

fn explained(device: &Device, name: &str) -> Value {
    let text = device.dunlin().args(["explain", "--format", "json", name]).ok();
    serde_json::from_str::<Value>(&text).unwrap()["Apps"][0].clone()
}

#[test]
fn a_technician_brings_apps_follows_them_and_takes_them_away() {
    let mut device = device!("app-verbs", Setup::default());
    let (v1, v2, v3) = (image(&device, "v1"), image(&device, "v2"), image(&device, "v3"));
    let app = |device: &Device, args: &[&str]| device.dunlin().arg("app").args(args);
    let file = |device: &Device, name: &str, image: &str, health: &str| {
        let path = device.scratch.write("given.toml", document(name, image, health));
        device.user.give(&path);
        path.display().to_string()
    };

    // Nobody runs: what is applied is kept, and explain says why it does not run.
    let given = file(&device, "web", &v1, "/bin/true");
    let out = app(&device, &["apply", &given]).run();
    assert_eq!(out.code, 0, "{out:?}");
    assert!(out.stderr.contains("the agent is not running"), "{out:?}");
    assert_eq!(app(&device, &["ls", "-q"]).ok(), "web");
    let story = explained(&device, "web");
    assert_eq!(story["State"], "missing");
    assert_eq!(story["Blocks"], json!(["the agent is not running"]));

    device.start();
    device.hear("web to be committed", "deploy", |v| {
        v["source"] == "local" && v["state"] == "COMMITTED"
    });
    let line = app(&device, &["ls", "--noheading"]).ok();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[0], "web");
    assert!(line.contains("(healthy)") && line.contains("local"), "{line}");
    let text = device.dunlin().args(["explain"]).ok();
    assert!(
        text.contains("connected to its broker") && text.contains("blocked by  nothing"),
        "{text}"
    );

    // A second version, followed to its end.
    let given = file(&device, "web", &v2, "/bin/true");
    let out = app(&device, &["apply", "--wait", &given]).run();
    assert_eq!(out.code, 0, "{out:?}");
    assert!(out.stderr.ends_with("COMMITTED\n"), "{out:?}");
    let running = |device: &Device| device.dunlin().args(["ps", "--format", "{{.Names}} {{.Image}}"]).ok();
    assert_eq!(running(&device), format!("web {v2}"));
    let out = app(&device, &["apply", &given]).run();
    assert_eq!(
        (out.code, out.stderr.contains("nothing had to be changed")),
        (0, true),
        "{out:?}"
    );

    // One that never gets healthy: the old one comes back, and it is not tried again before it is asked for.
    let given = file(&device, "web", &v3, "/bin/false");
    let out = app(&device, &["apply", &given]).run();
    assert_eq!(out.code, 1, "{out:?}");
    assert!(out.stderr.contains("ROLLED_BACK"), "{out:?}");
    assert_eq!(running(&device), format!("web {v2}"));
    let story = explained(&device, "web");
    let blocks = story["Blocks"].to_string();
    assert!(
        blocks.contains("quarantine") && blocks.contains("ROLLED_BACK"),
        "{blocks}"
    );
    let history = app(&device, &["history", "web"]).ok();
    let states: Vec<&str> = history
        .lines()
        .filter_map(|line| {
            ["COMMITTED", "ROLLED_BACK"]
                .into_iter()
                .find(|state| line.contains(state))
        })
        .collect();
    assert_eq!(states, ["ROLLED_BACK", "COMMITTED", "COMMITTED"], "{history}");
    let out = app(&device, &["retry", "web"]).run();
    assert_eq!(out.code, 1, "tried again, and back again: {out:?}");
    assert!(out.stderr.contains("ROLLED_BACK"), "{out:?}");

    // By hand to the version before.
    let out = app(&device, &["rollback", "--wait", "web"]).run();
    assert_eq!(out.code, 0, "{out:?}");
    assert_eq!(running(&device), format!("web {v1}"));

    // Mistakes are told all at once, and nothing is written.
    let bad = device.scratch.write(
        "bad.toml",
        "name = 'web'\nimage = 'r.example/x:1'\nports = ['x']\nvolumes = ['a']\n",
    );
    device.user.give(&bad);
    let out = app(&device, &["apply", &bad.display().to_string()]).run();
    assert_eq!(out.code, 125, "{out:?}");
    assert!(
        out.stderr.contains("ports[0]") && out.stderr.contains("volumes[0]"),
        "{out:?}"
    );

    // The administrator's file is not the command line's to change.
    let fixed = device
        .scratch
        .write("apps/fixed.toml", document("fixed", &v1, "/bin/true"));
    device.user.give(&fixed);
    device.hear("fixed to be committed", "reported", |v| {
        v["apps"].to_string().contains("\"fixed\"")
    });
    let out = app(&device, &["rm", "fixed"]).run();
    assert_eq!(out.code, 125, "{out:?}");
    assert!(out.stderr.contains("apps/fixed.toml"), "{out:?}");
    let out = app(&device, &["rm", "nobody"]).run();
    assert!(out.code == 125 && out.stderr.contains("no app `nobody`"), "{out:?}");

    let out = app(&device, &["rm", "--wait", "web"]).run();
    assert_eq!(out.code, 0, "{out:?}");
    assert!(!running(&device).lines().any(|line| line.starts_with("web ")));

    // The fleet's app is not the command line's to take away either.
    let activity =
        device.deploy(json!([{"name": "far", "image": v1, "command": ["sleep", "1000"], "update": {"soak": "1s"}}]));
    device.wait_state(&activity, "COMMITTED");
    let out = app(&device, &["rm", "far"]).run();
    assert!(out.code == 125 && out.stderr.contains("belongs to `d/dev`"), "{out:?}");

    // Without its agent the device tells the same.
    let mut agent = device.agent.take().unwrap();
    agent.signal("TERM");
    agent.wait(LONG);
    let names = app(&device, &["ls", "-q"]).ok();
    assert_eq!(names, "far\nfixed");
    let text = device.dunlin().args(["explain"]).ok();
    assert!(
        text.contains("The agent is not running") && text.contains("d/dev, generation"),
        "{text}"
    );
    let out = app(&device, &["rollback", "far"]).run();
    assert!(
        out.code == 125 && out.stderr.contains("the agent is not running"),
        "{out:?}"
    );
    device.clean();
}

#[test]
fn documents_are_refused_while_their_numbers_are_lost_until_somebody_on_the_device_says_so() {
    let mut device = device!("app-trust", Setup::default());
    let v1 = image(&device, "v1");
    device.start();
    let app = json!([{"name": "web", "image": v1, "command": ["sleep", "1000"], "update": {"soak": "1s"}}]);
    let first = device.deploy(app.clone());
    device.wait_state(&first, "COMMITTED");
    let mut agent = device.agent.take().unwrap();
    agent.signal("TERM");
    agent.wait(LONG);
    for copy in ["trust", "trust.2"] {
        let path = device.scratch.join("data/agent").join(copy);
        std::fs::write(&path, "rotten").unwrap();
    }
    device.start();
    device.hear("the refusal", "evt/document", |v| {
        v["detail"].to_string().contains("reset-trust")
    });
    assert_eq!(device.running().len(), 1, "what runs goes on");
    let text = device.dunlin().args(["explain"]).ok();
    assert!(text.contains("takes nothing over MQTT"), "{text}");
    device.dunlin().args(["app", "reset-trust", "--force"]).ok();
    let mut other = app;
    other[0]["command"] = json!(["sleep", "2000"]);
    let second = device.deploy(other);
    device.wait_state(&second, "COMMITTED");
    device.clean();
}

#[test]
fn tags_are_followed_through_the_same_gate() {
    let mut device = device!("app-auto", Setup::default());
    // What the tag means: an image with the file that the health check looks for, or without.
    let push = |device: &Device, good: bool, version: &str| {
        let tree = || {
            let tree = Tree::new().file("version", 0o644, version);
            if good { tree.file("good", 0o644, "") } else { tree }.finish()
        };
        let index = Index::each(Format::Oci, |recipe| recipe.layer(tree(), Compression::Gzip));
        device.registry.push("tagged", "stable", &index);
    };
    push(&device, true, "1");
    let image = format!("{}:stable", device.registry.reference("tagged"));
    let text = format!(
        "name = 'web'\nimage = '{image}'\ncommand = ['sleep', '100000']\nupdate = {{ soak = '1s', auto = true }}\n\
         health = {{ exec = ['/bin/ls', '/good'], interval = '300ms', start_interval = '100ms', timeout = '5s', failures = 3 }}\n"
    );
    let file = device.scratch.write("given.toml", text);
    device.user.give(&file);
    device.start();
    let out = device.dunlin().args(["app", "apply", "--wait"]).arg(&file).run();
    assert_eq!(out.code, 0, "{out:?}");
    // Between two versions there is nothing to ask.
    let version = |device: &Device| {
        device
            .dunlin()
            .args(["exec", "web", "cat", "/version"])
            .run()
            .stdout
            .trim()
            .to_owned()
    };
    let updated = |device: &Device, args: &[&str]| {
        let out = device
            .dunlin()
            .arg("auto-update")
            .args(args)
            .args(["--format", "{{.App}} {{.Updated}}"])
            .run();
        (out.code, out.stdout.trim().to_owned())
    };
    // Fleet keys are there, and no policy asks for signatures.
    let (code, text) = updated(&device, &["--dry-run"]);
    assert!(code == 1 && text.contains("policy.json"), "{text}");
    let settings = device.scratch.join("agent.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let keys = text.find("[[fleet.keys]]").unwrap();
    std::fs::write(&settings, &text[..keys]).unwrap();
    let restart = |device: &mut Device| {
        let mut agent = device.agent.take().unwrap();
        agent.signal("TERM");
        agent.wait(LONG);
        device.start();
    };
    restart(&mut device);

    assert_eq!(updated(&device, &["--dry-run"]), (0, "web false".into()));
    push(&device, true, "2");
    assert_eq!(updated(&device, &["--dry-run"]), (0, "web pending".into()));
    assert_eq!(version(&device), "1", "only looked at");
    assert_eq!(updated(&device, &[]), (0, "web true".into()));
    assert_eq!(version(&device), "2");
    assert_eq!(updated(&device, &[]), (0, "web false".into()));
    let pid = device.pid("web");
    restart(&mut device);
    assert_eq!(
        explained(&device, "web")["Blocks"],
        json!([]),
        "what was followed is what is wanted"
    );
    assert_eq!(device.pid("web"), pid, "nothing is done again");

    push(&device, false, "3");
    assert_eq!(updated(&device, &[]), (1, "web rolled back".into()));
    assert_eq!(version(&device), "2");
    assert_eq!(updated(&device, &[]), (0, "web false".into()), "not tried again");
    push(&device, true, "4");
    assert_eq!(updated(&device, &[]), (0, "web true".into()));
    assert_eq!(version(&device), "4");

    // By itself, on its schedule.
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text.replace("[apps]\n", "[apps]\nauto_update = '1s'\n")).unwrap();
    push(&device, true, "5");
    restart(&mut device);
    device.hear("the fifth version", "deploy", |v| {
        v["source"] == "local" && v["state"] == "COMMITTED" && v["activity"] != Value::Null
    });
    let begun = std::time::Instant::now();
    while version(&device) != "5" {
        assert!(begun.elapsed() < LONG, "the schedule brings it");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    device.clean();
}
