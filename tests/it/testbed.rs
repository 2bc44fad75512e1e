//! The test bed itself: what the other tests stand on.

mod machines {
    use crate::fixture::arch::Arch;
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
}
