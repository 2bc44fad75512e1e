//! Which devices a container may open and make nodes of (config-linux.md, "Allowed Device list"): the list of the devices
//! controller (v1), or a program that the kernel asks (v2).
//!
//! What no rule names is denied, as with runc, also where a bundle has no rules at all; the defaults come after the bundle's
//! rules and can thus not be denied.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use super::{CgroupError, Controller, Handle, Tree, device_program, file};
use crate::sys::{bpf, creds, errno, ns, process};
use crate::types::oci::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// Making a node, as the kernel numbers accesses (`BPF_DEVCG_ACC_MKNOD`).
pub(super) const MKNOD: u8 = 1;
/// Opening for reading.
pub(super) const READ: u8 = 2;
/// Opening for writing.
pub(super) const WRITE: u8 = 4;
/// All three.
pub(super) const ALL: u8 = MKNOD | READ | WRITE;

/// Kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    Char,
}

/// One rule. What is none is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub allow: bool,
    pub kind: Option<Kind>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Of [`MKNOD`], [`READ`] and [`WRITE`].
    pub access: u8,
}

/// What every container has (config-linux.md, "Default Devices"), terminals, and nodes that are only made.
pub(super) const DEFAULT: [Rule; 10] = [
    default(Kind::Char, Some(1), Some(3), ALL),
    default(Kind::Char, Some(1), Some(5), ALL),
    default(Kind::Char, Some(1), Some(7), ALL),
    default(Kind::Char, Some(1), Some(8), ALL),
    default(Kind::Char, Some(1), Some(9), ALL),
    default(Kind::Char, Some(5), Some(0), ALL),
    default(Kind::Char, Some(5), Some(2), ALL),
    default(Kind::Char, Some(136), None, ALL),
    default(Kind::Char, None, None, MKNOD),
    default(Kind::Block, None, None, MKNOD),
];

const fn default(kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

impl Rule {
    /// Whether it decides about everything.
    pub(super) fn is_total(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }

    /// As v1 writes it. A rule of both kinds that is not total has two lines: `a` stands for everything there, whatever
    /// comes after it.
    fn lines(&self) -> Vec<String> {
        if self.is_total() {
            return vec!["a".to_owned()];
        }
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
            .iter()
            .filter_map(|(bit, letter)| (self.access & bit != 0).then_some(*letter))
            .collect();
        let line = |letter| format!("{letter} {}:{} {access}", number(self.major), number(self.minor));
        match self.kind {
            Some(Kind::Char) => vec![line('c')],
            Some(Kind::Block) => vec![line('b')],
            None => vec![line('c'), line('b')],
        }
    }

    /// Whether there is an access that both speak of.
    fn meets(&self, other: &Rule) -> bool {
        let fits = |one: Option<u32>, other: Option<u32>| one.is_none() || other.is_none() || one == other;
        self.access & other.access != 0
            && (self.kind.is_none() || other.kind.is_none() || self.kind == other.kind)
            && fits(self.major, other.major)
            && fits(self.minor, other.minor)
    }
}

/// Reads the rules of a bundle.
pub(super) fn understand(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, CgroupError> {
    rules.iter().map(understand_one).collect()
}

fn understand_one(rule: &LinuxDeviceCgroup) -> Result<Rule, CgroupError> {
    let number = |number: Option<i64>| {
        let number = number.filter(|number| *number >= 0);
        number
            .map(|n| u32::try_from(n).map_err(|_| wrong(format!("`{n}` is not the number of a device"))))
            .transpose()
    };
    let kind = match rule.kind {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(Kind::Block),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Kind::Char),
        Some(LinuxDeviceType::P) => {
            return Err(wrong("a pipe is no device: `type` must be `a`, `b` or `c`".to_owned()));
        }
    };
    let access = rule.access.as_deref().filter(|access| !access.is_empty());
    let access = access
        .unwrap_or("rwm")
        .chars()
        .try_fold(0, |all, letter| match letter {
            'r' => Ok(all | READ),
            'w' => Ok(all | WRITE),
            'm' => Ok(all | MKNOD),
            other => Err(wrong(format!("`access`: `{other}` is none of `r`, `w` and `m`"))),
        })?;
    Ok(Rule {
        allow: rule.allow,
        kind,
        major: number(rule.major)?,
        minor: number(rule.minor)?,
        access,
    })
}

fn wrong(cause: String) -> CgroupError {
    CgroupError::Resource {
        field: "devices".to_owned(),
        cause,
    }
}

impl Handle {
    /// Allows and denies devices; what was allowed before is of no account. False: there are rules, and the caller may not
    /// have them enforced.
    pub(super) fn apply_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<bool, CgroupError> {
        let asked = !rules.is_empty();
        let rules = understand(rules)?;
        match (self.tree(), self.dir(Controller::Devices)) {
            (Tree::V1 { .. }, Some(dir)) => list_devices(&dir, &rules),
            (Tree::V2 { .. }, Some(dir)) => program_devices(&dir, &rules, asked),
            _ => Ok(!asked),
        }
        .map(|done| done || !asked && !is_host_root())
    }
}

fn list_devices(dir: &Path, rules: &[Rule]) -> Result<bool, CgroupError> {
    if let Some((earlier, later)) = v1_cannot(rules) {
        return Err(wrong(format!(
            "control groups v1 cannot have `{}` after `{}`",
            later.lines().join("`, `"),
            earlier.lines().join("`, `")
        )));
    }
    let first = Rule {
        allow: false,
        kind: None,
        major: None,
        minor: None,
        access: ALL,
    };
    let asked = std::iter::once(&first).chain(rules).map(|rule| (true, rule));
    for (must, rule) in asked.chain(DEFAULT.iter().map(|rule| (false, rule))) {
        let path = dir.join(if rule.allow { "devices.allow" } else { "devices.deny" });
        for line in rule.lines() {
            match file::put(&path, &line) {
                // Root of the host may write, and is refused what the group above does not have.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !(must && is_host_root()) => {
                    if must {
                        return Ok(false);
                    }
                }
                done => done.map_err(|e| wrong(format!("write `{line}` to `{}`: {e}", path.display())))?,
            }
        }
    }
    Ok(true)
}

/// Two rules that contradict each other on a part of what they name: v1 knows a list of exceptions, of which a rule takes
/// back only one that names exactly the same.
fn v1_cannot(rules: &[Rule]) -> Option<(&Rule, &Rule)> {
    let begin = rules.iter().rposition(Rule::is_total).map_or(0, |at| at + 1);
    let rules = &rules[begin..];
    rules.iter().enumerate().find_map(|(at, later)| {
        let against = |earlier: &&Rule| {
            let same = (earlier.kind, earlier.major, earlier.minor) == (later.kind, later.major, later.minor);
            earlier.allow != later.allow && earlier.meets(later) && !same
        };
        rules[..at].iter().find(against).map(|earlier| (earlier, later))
    })
}

fn program_devices(dir: &Path, rules: &[Rule], asked: bool) -> Result<bool, CgroupError> {
    let all: Vec<Rule> = rules.iter().chain(&DEFAULT).copied().collect();
    match replace_program(dir, &all) {
        Ok(()) => Ok(true),
        Err((_, e)) if e.raw_os_error() == Some(errno::EPERM) && !is_host_root() => Ok(false),
        Err((_, e)) if !asked && matches!(e.raw_os_error(), Some(errno::EINVAL | errno::ENOSYS)) => Ok(false),
        Err((action, e)) => {
            let fix = match e.raw_os_error() {
                Some(errno::EINVAL | errno::ENOSYS) => "; the kernel needs CONFIG_CGROUP_BPF",
                _ => "",
            };
            Err(wrong(format!("{action} the program of `{}`: {e}{fix}", dir.display())))
        }
    }
}

/// Puts a program in the place of those that the group has; at no moment is there none.
fn replace_program(dir: &Path, rules: &[Rule]) -> Result<(), (&'static str, io::Error)> {
    let doing = |action| move |e: io::Error| (action, e);
    let group = fs::File::open(dir).map_err(doing("open the group of"))?;
    let ids = match bpf::device_programs(group.as_fd()) {
        Err(_) if rules.iter().all(|rule| rule.allow) && rules.iter().any(Rule::is_total) => return Ok(()),
        found => found.map_err(doing("look for"))?,
    };
    let mut old = Vec::with_capacity(ids.len());
    for id in ids {
        match bpf::open_program(id) {
            Err(e) if e.raw_os_error() == Some(errno::ENOENT) => {}
            opened => old.push(opened.map_err(doing("open"))?),
        }
    }
    let program = load(&device_program::compile(rules)).map_err(doing("load"))?;
    let group = group.as_fd();
    if let [one] = old.as_slice() {
        match bpf::attach_device_program(group, program.as_fd(), Some(one.as_fd())) {
            // Before Linux 5.6, or attached for itself alone.
            Err(e) if matches!(e.raw_os_error(), Some(errno::EINVAL | errno::EPERM)) => {}
            done => return done.map_err(doing("replace")),
        }
    }
    // Where there are several, all of them must agree.
    bpf::attach_device_program(group, program.as_fd(), None).map_err(doing("attach"))?;
    for one in old {
        bpf::detach_device_program(group, one.as_fd()).map_err(doing("detach"))?;
    }
    Ok(())
}

/// Before Linux 5.11 programs count as locked memory of the user.
fn load(program: &[bpf::Instruction]) -> io::Result<std::os::fd::OwnedFd> {
    match bpf::load_device_program(program) {
        Err(e) if e.raw_os_error() == Some(errno::EPERM) && is_host_root() => {
            let resource = process::limit_by_name("RLIMIT_MEMLOCK").ok_or(e)?;
            let (soft, hard) = process::limit(resource)?;
            process::set_limit(resource, u64::MAX, u64::MAX)?;
            let loaded = bpf::load_device_program(program);
            // What runs in the container has the limit that it would have had.
            process::set_limit(resource, soft, hard)?;
            loaded
        }
        done => done,
    }
}

/// Whether the caller has the rights of the host's root, and not only those of a user namespace's.
fn is_host_root() -> bool {
    creds::caps().is_ok_and(|caps| caps.effective.has(creds::Caps::SYS_ADMIN))
        && ns::has_host_ids().is_ok_and(|host| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Result<Vec<Rule>, String> {
        let all: Vec<_> = serde_json::from_str(json).expect("rules");
        understand(&all).map_err(|error| error.to_string())
    }

    #[test]
    fn rules_are_v1s_texts() {
        let lines = |json: &str| rules(&format!("[{json}]")).expect("a rule")[0].lines();
        assert_eq!(lines(r#"{"allow":false,"access":"rwm"}"#), ["a"]);
        assert_eq!(
            lines(r#"{"allow":true,"type":"c","major":10,"minor":-1,"access":"r"}"#),
            ["c 10:* r"]
        );
        assert_eq!(lines(r#"{"allow":true,"type":"b","major":8,"minor":0}"#), ["b 8:0 rwm"]);
        assert_eq!(
            lines(r#"{"allow":true,"type":"a","access":"m"}"#),
            ["c *:* m", "b *:* m"],
            "`a` would be everything"
        );
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for (json, text) in [
            (r#"[{"allow":true,"type":"p"}]"#, "a pipe is no device"),
            (r#"[{"allow":true,"access":"rx"}]"#, "`x` is none of"),
            (
                r#"[{"allow":true,"major":4294967296}]"#,
                "`4294967296` is not the number",
            ),
        ] {
            let error = rules(json).expect_err(json);
            assert!(
                error.starts_with("config.json: `linux.resources.devices`: ") && error.contains(text),
                "{error}"
            );
        }
    }

    #[test]
    fn what_v1_would_pass_over_in_silence_is_found() {
        for (json, found) in [
            (
                r#"[{"allow":true,"type":"c","major":10},{"allow":false,"type":"c","major":10,"minor":200}]"#,
                true,
            ),
            (
                r#"[{"allow":true,"type":"c","major":10,"minor":200},{"allow":false,"type":"c","major":10}]"#,
                true,
            ),
            (
                r#"[{"allow":true},{"allow":false,"type":"b"},{"allow":true,"major":8}]"#,
                true,
            ),
            (
                r#"[{"allow":true,"type":"c","major":10},{"allow":false},{"allow":true,"type":"c","major":1}]"#,
                false,
            ),
            (
                r#"[{"allow":true,"type":"c","major":10},{"allow":false,"type":"c","major":10,"access":"w"}]"#,
                false,
            ),
            (
                r#"[{"allow":true,"type":"c","access":"m"},{"allow":false,"type":"c","major":10,"access":"rw"}]"#,
                false,
            ),
        ] {
            assert_eq!(v1_cannot(&rules(json).expect("rules")).is_some(), found, "{json}");
        }
    }
}
