//! The test bed itself: what the other tests stand on.

mod machines {
    use crate::fixture::arch::Arch;
    use crate::fixture::booted::stand_in;
    use crate::fixture::scratch::Scratch;
    use crate::fixture::vm::{HOST, Vm, make_disk};
    use crate::skip;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    const DELEGATION: &str = r#"
        set -e
        uname -srm
        cat /sys/fs/cgroup/dunlin/cgroup.controllers
        for controller in cpu cpuset io memory pids; do grep -qw $controller /sys/fs/cgroup/dunlin/cgroup.controllers; done
        delegated sh -ec '
            [ $(id -u) = 1000 ]
            cd /sys/fs/cgroup/dunlin
            mkdir leaf c-1
            echo $$ >leaf/cgroup.procs
            echo "+cpu +cpuset +io +memory +pids" >cgroup.subtree_control
            echo 16777216 >c-1/memory.max
            echo 20 >c-1/pids.max
            echo "50000 100000" >c-1/cpu.max
            cat /proc/self/cgroup
            unshare -U sleep 5 & child=$!
            usleep 300000
            newuidmap $child 0 1000 1 1 100000 65536
            newgidmap $child 0 1000 1 1 100000 65536
            cat /proc/$child/uid_map
            grep -q "1 *100000 *65536" /proc/$child/uid_map
            grep -q "1 *100000 *65536" /proc/$child/gid_map
            kill $child
            mkdir -p /tmp/o/lower /tmp/o/upper /tmp/o/work /tmp/o/merged
            unshare -Urm mount -t overlay -o lowerdir=/tmp/o/lower,upperdir=/tmp/o/upper,workdir=/tmp/o/work,userxattr overlay /tmp/o/merged
        '
        as plain sh -ec '
            [ $(id -u) = 1001 ]
            unshare -U sleep 5 & child=$!
            usleep 300000
            ! newuidmap $child 0 1001 1 1 100000 65536
            kill $child
            ! mkdir /sys/fs/cgroup/dunlin/other
        '
    "#;

    fn delegates_cgroups_and_ids(arch: Arch) {
        let vm = match Vm::new(arch) {
            Ok(vm) => vm,
            Err(reason) => skip!("{reason}"),
        };
        let outcome = vm.run(DELEGATION);
        eprintln!("{} machine: {:.1} s", arch.name(), outcome.wall.as_secs_f32());
        outcome.ok();
    }

    #[test]
    fn an_x86_64_machine_delegates_cgroups_and_ids() {
        delegates_cgroups_and_ids(Arch::X86_64);
    }

    #[test]
    fn an_aarch64_machine_delegates_cgroups_and_ids() {
        delegates_cgroups_and_ids(Arch::Aarch64);
    }

    fn reaches_the_hosts_loopback(arch: Arch) {
        let vm = match Vm::new(arch) {
            Ok(vm) => vm,
            Err(reason) => skip!("{reason}"),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"from the host\n").unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            said
        });
        let script = format!(
            "set -e\nanswer=$(echo from the guest | as plain nc -w 10 {HOST} {port})\n[ \"$answer\" = 'from the host' ]\n"
        );
        vm.net().run(&script).ok();
        assert_eq!(server.join().unwrap(), "from the guest\n");
    }

    #[test]
    fn an_x86_64_machine_reaches_the_hosts_loopback() {
        reaches_the_hosts_loopback(Arch::X86_64);
    }

    #[test]
    fn an_aarch64_machine_reaches_the_hosts_loopback() {
        reaches_the_hosts_loopback(Arch::Aarch64);
    }

    fn a_power_cut_keeps_what_was_synced(arch: Arch) {
        let scratch = Scratch::new("cut");
        let image = scratch.join("disk");
        make_disk(&image, 64);
        let machine = || Vm::new(arch).map(|vm| vm.disk(&image));
        let vm = match machine() {
            Ok(vm) => vm,
            Err(reason) => skip!("{reason}"),
        };
        let running =
            vm.start("as dunlin sh -ec 'cd /disk; echo kept >kept; sync; echo late >late'; echo written; sleep 60");
        running.wait_for("written");
        assert_eq!(running.power_cut().code, None);
        let output = machine().unwrap().run("cat /disk/kept && ls -l /disk").ok();
        assert!(output.contains("kept"), "{output}");
        assert!(!output.contains("late"), "{output}");
    }

    #[test]
    fn a_power_cut_of_an_x86_64_machine_keeps_what_was_synced() {
        a_power_cut_keeps_what_was_synced(Arch::X86_64);
    }

    #[test]
    fn a_power_cut_of_an_aarch64_machine_keeps_what_was_synced() {
        a_power_cut_keeps_what_was_synced(Arch::Aarch64);
    }

    fn a_kept_machine_starts_with_any_disk_and_other_random_numbers(arch: Arch) {
        const LISTEN: &str =
            "exec </dev/console; stty -echo; sleep 5; echo 'vm: ready'; while read -r line; do eval \"$line\"; done";
        let scratch = Scratch::new("kept");
        let disk = scratch.join("disk");
        stand_in(&disk, 16);
        let vm = match Vm::new(arch) {
            Ok(vm) => vm.lean().cpus(1).memory(256).disk(&disk).late(),
            Err(reason) => skip!("{reason}"),
        };
        let booted = vm.booted(LISTEN).unwrap();
        let mut boots = Vec::new();
        for number in ["first", "second"] {
            let image = scratch.join(number);
            make_disk(&image, 16);
            let mut machine = booted.start(&image).unwrap();
            machine.say(&format!(
                "echo {number} >/dev/urandom; echo boot $(cat /proc/sys/kernel/random/boot_id); disk; ls /disk; echo {number} >/disk/own; sync; echo over"
            ));
            machine.wait_for("over");
            let output = machine.power_cut().output;
            assert!(output.contains("lost+found") && !output.contains("own"), "{output}");
            boots.extend(output.lines().find(|line| line.starts_with("boot ")).map(str::to_owned));
        }
        assert!(boots.len() == 2 && boots[0] != boots[1], "{boots:?}");
        let mut machine = booted.start_cold(&scratch.join("first"));
        machine.say("disk; cat /disk/own; echo over");
        machine.wait_for("over");
        let output = machine.power_cut().output;
        assert!(output.lines().any(|line| line == "first"), "{output}");
    }

    #[test]
    fn a_kept_x86_64_machine_starts_with_any_disk_and_other_random_numbers() {
        a_kept_machine_starts_with_any_disk_and_other_random_numbers(Arch::X86_64);
    }

    #[test]
    fn a_kept_aarch64_machine_starts_with_any_disk_and_other_random_numbers() {
        a_kept_machine_starts_with_any_disk_and_other_random_numbers(Arch::Aarch64);
    }
}

mod counterparts {
    use crate::fixture::arch::Arch;
    use crate::fixture::broker::Broker;
    use crate::fixture::cmd::Cmd;
    use crate::fixture::images::{Compression, Format, Index, Recipe};
    use crate::fixture::registry::Registry;
    use crate::fixture::scratch::Scratch;
    use crate::fixture::tree::Tree;
    use crate::fixture::user::User;
    use crate::skip;
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    fn keeps_retained_messages(mut broker: Broker) {
        let mut watch = broker.watch("t/#");
        broker.publish("t/a", "one", true);
        let got = watch.wait_for("message", Duration::from_secs(10), |message| Some(message.clone()));
        assert_eq!(
            (got.topic.as_str(), got.retained, got.payload.as_slice()),
            ("t/a", false, &b"one"[..])
        );
        broker.stop();
        broker.start();
        let mut late = broker.watch("t/#");
        let kept = late.wait_for("retained message", Duration::from_secs(10), |message| {
            message.retained.then(|| message.payload.clone())
        });
        assert_eq!(kept, b"one");
    }

    #[test]
    fn a_plain_broker_keeps_retained_messages_over_a_restart() {
        keeps_retained_messages(Broker::plain());
    }

    #[test]
    fn a_tls_broker_keeps_retained_messages_over_a_restart() {
        keeps_retained_messages(Broker::tls());
    }

    #[test]
    fn a_tls_broker_refuses_a_client_without_a_certificate() {
        let broker = Broker::tls();
        let port = broker.port().to_string();
        let out = Cmd::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-t", "t", "-m", "x", "--cafile"])
            .arg(broker.ca())
            .run();
        assert_ne!(out.code, 0);
    }

    /// skopeo, an independent reader, agrees with what was pushed.
    fn skopeo_finds_both_architectures(registry: &Registry, format: Format, credentials: Option<&str>) {
        let index = Index::busybox(format);
        registry.push("team/busybox", "1", &index);
        let certificates = Scratch::new("certs");
        let mut common = vec!["--tls-verify=false".to_owned()];
        if registry.is_encrypted() {
            fs::copy(registry.ca(), certificates.join("ca.crt")).unwrap();
            common = vec!["--cert-dir".to_owned(), certificates.path().display().to_string()];
        }
        if let Some(credentials) = credentials {
            common.push(format!("--creds={credentials}"));
        }
        for arch in Arch::ALL {
            let config = Cmd::new("skopeo")
                .args(["--override-arch", arch.oci(), "inspect", "--config"])
                .args(&common)
                .arg(format!("docker://{}:1", registry.reference("team/busybox")))
                .ok();
            let config: serde_json::Value = serde_json::from_str(&config).unwrap();
            assert_eq!(config["architecture"], arch.oci());
        }
    }

    #[test]
    fn a_plain_registry_serves_an_oci_index() {
        skopeo_finds_both_architectures(&Registry::plain(), Format::Oci, None);
    }

    #[test]
    fn a_tls_registry_serves_a_docker_manifest_list() {
        skopeo_finds_both_architectures(&Registry::tls(), Format::Docker, None);
    }

    #[test]
    fn a_registry_with_a_password_asks_for_it() {
        let registry = Registry::tls_with_password("gull", "secret");
        skopeo_finds_both_architectures(&registry, Format::Oci, Some("gull:secret"));
        let url = format!("https://{}/v2/", registry.host());
        let code = Cmd::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
            .arg(registry.ca())
            .arg(url)
            .ok();
        assert_eq!(code, "401");
    }

    #[test]
    fn a_layout_of_every_compression_is_read_by_skopeo() {
        let scratch = Scratch::new("layout");
        let layer = |name: &str| {
            Tree::new()
                .dir("opt")
                .file(&format!("opt/{name}"), 0o644, name)
                .finish()
        };
        let image = |arch| {
            Recipe::busybox(arch)
                .layer(layer("plain"), Compression::Plain)
                .layer(layer("zstd"), Compression::Zstd)
                .build()
        };
        let index = Index::new(Format::Oci, Arch::ALL.into_iter().map(image).collect());
        index.write_layout(&scratch.join("in"), "v1");
        let (from, to) = (scratch.join("in"), scratch.join("out"));
        Cmd::new("skopeo")
            .args(["--insecure-policy", "copy", "--all", "--preserve-digests", "-q"])
            .arg(format!("oci:{}:v1", from.display()))
            .arg(format!("oci:{}:v1", to.display()))
            .ok();
        for blob in fs::read_dir(from.join("blobs/sha256")).unwrap() {
            assert!(to.join("blobs/sha256").join(blob.unwrap().file_name()).exists());
        }
    }

    #[test]
    fn made_users_have_the_ranges_asked_for_and_leave_nothing() {
        let (ranged, plain) = match (User::with_ranges(), User::without_ranges()) {
            (Ok(ranged), Ok(plain)) => (ranged, plain),
            (Err(reason), _) | (_, Err(reason)) => skip!("{reason}"),
        };
        assert_eq!(ranged.shell("id -u").ok(), ranged.uid().to_string());
        assert_eq!(
            plain.shell("touch $XDG_RUNTIME_DIR/x $HOME/y && echo $USER").ok(),
            plain.name()
        );
        let map = "unshare -U sleep 20 & sleep 0.3; newuidmap $! 0 $(id -u) 1 && cat /proc/$!/uid_map; kill $!";
        assert!(ranged.shell(map).ok().contains(&ranged.uid().to_string()));
        let _left = ranged.shell("sleep 300 >/dev/null 2>&1 &").ok();
        assert_eq!(ranged.processes().len(), 1);
        let (uid, name, home) = (ranged.uid(), ranged.name().to_owned(), ranged.home().to_owned());
        drop(ranged);
        assert!(!fs::read_to_string("/etc/passwd").unwrap().contains(&name));
        assert!(!fs::read_to_string("/etc/subuid").unwrap().contains(&name));
        assert!(!Path::new(&home).exists());
        let processes = Cmd::new("ps")
            .args(["-o", "stat=", "-u", &uid.to_string()])
            .run()
            .stdout;
        assert!(processes.lines().all(|state| state.starts_with('Z')), "{processes}");
    }

    #[test]
    fn a_scratch_folder_takes_its_processes_with_it() {
        let scratch = Scratch::new("takes");
        let mut child = std::process::Command::new("sleep")
            .arg("300")
            .env("WHERE", scratch.path())
            .spawn()
            .unwrap();
        assert_eq!(scratch.processes().len(), 1);
        drop(scratch);
        assert!(!child.wait().unwrap().success());
    }
}
