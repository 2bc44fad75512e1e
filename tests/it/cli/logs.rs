//! Logs in memory, for boards with flash.

use super::{EVERYBODY, World};
use crate::skip;
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn logs_in_memory_are_as_others_until_a_reboot_and_write_nothing_to_the_store() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let settings = world.folder("settings").join("agent.toml");
        fs::write(&settings, "[containers]\nlogs = 'memory'\n").unwrap();
        let dunlin = |words: &str| world.cmd(&format!("--config {} {words}", settings.display()));
        let says = |name: &str, expected: &str| {
            let began = Instant::now();
            while world.cmd("logs").arg(name).ok() != expected {
                assert!(
                    began.elapsed() < Duration::from_secs(20),
                    "{who:?}: {name} has said {:?}",
                    world.cmd("logs").arg(name).ok()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let script = "echo one; trap exit TERM; sleep 1000 & wait";
        for (name, command) in [
            ("memory", dunlin("run -d --name")),
            ("disk", world.cmd("run -d --name")),
        ] {
            command.arg(name).arg(&world.image).args(["sh", "-c", script]).ok();
            says(name, "one");
        }
        let (data, run) = world.roots();
        let log = |name: &str| data.join("containers").join(world.field(name, "{{.Id}}")).join("log");
        let memory = run.join("c").join(world.field("memory", "{{.Id}}")).join("log");
        assert_eq!(fs::read_link(log("memory")).unwrap(), memory, "{who:?}");
        assert!(memory.join("0.log").exists() && log("disk").join("0.log").exists());
        assert_eq!(
            world.field("memory", "{{.HostConfig.LogConfig.Path}}"),
            log("memory").join("0.log").display().to_string()
        );

        // Where a log began, it stays.
        world.cmd("restart -t 5 memory").ok();
        dunlin("restart -t 5 disk").ok();
        says("memory", "one\none");
        says("disk", "one\none");
        assert!(memory.join("0.log").exists() && log("disk").join("0.log").exists());

        // As after a reboot.
        dunlin("stop -t 5 memory").ok();
        fs::remove_dir_all(memory.parent().unwrap()).unwrap();
        assert_eq!(world.cmd("logs memory").ok(), "", "{who:?}");
        world.cmd("start memory").ok();
        says("memory", "one");

        let link = log("memory");
        world.cmd("rm -f -t 0 memory disk").ok();
        assert!(!memory.exists() && fs::symlink_metadata(link).is_err(), "{who:?}");
        assert!(world.cmd("system check").run().code == 0, "{who:?}");
    }
}
