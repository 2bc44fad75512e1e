//! Labels of mandatory access control that the program gets when it is executed: AppArmor's profile, SELinux's context.

use std::io::{self, Write as _};
use std::path::Path;

use super::error::RuntimeError;
use crate::sys::errno;
use crate::sys::path;
use crate::types::oci::runtime::{Process, Spec};

const APPARMOR: &str = "process.apparmorProfile";
const SELINUX: &str = "process.selinuxLabel";

/// What is asked for; empty texts are none.
fn asked(process: &Process) -> (Option<&str>, Option<&str>) {
    let given = |text: &'_ Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    (
        process
            .apparmor_profile
            .as_deref()
            .filter(|_| given(&process.apparmor_profile)),
        process
            .selinux_label
            .as_deref()
            .filter(|_| given(&process.selinux_label)),
    )
}

/// Refuses labels that this kernel does not enforce.
pub fn check(process: &Process) -> Result<(), RuntimeError> {
    let (profile, context) = asked(process);
    if profile.is_some_and(|name| name != "unconfined") && !has_apparmor() {
        return Err(RuntimeError::spec(APPARMOR, "AppArmor is not enabled on this kernel"));
    }
    if context.is_some() && !has_selinux() {
        return Err(RuntimeError::spec(SELINUX, "SELinux is not enabled on this kernel"));
    }
    Ok(())
}

/// The same for the label of a bundle's mounts.
pub fn check_mounts(spec: &Spec) -> Result<(), RuntimeError> {
    match mounts(spec) {
        Some(_) if !has_selinux() => Err(RuntimeError::spec(
            "linux.mountLabel",
            "SELinux is not enabled on this kernel",
        )),
        _ => Ok(()),
    }
}

/// The context of the file systems that are made for a bundle.
pub fn mounts(spec: &Spec) -> Option<&str> {
    let label = spec.linux.as_ref()?.mount_label.as_deref()?;
    (!label.is_empty()).then_some(label)
}

fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

fn has_selinux() -> bool {
    // The kernel says it here, also where nobody has mounted selinuxfs.
    std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|line| line.ends_with("\tselinuxfs")))
}

/// Sets the labels for the next exec of the calling process. Needs the host's procfs at `/proc`.
pub fn apply(process: &Process) -> Result<(), RuntimeError> {
    let (profile, context) = asked(process);
    if let Some(name) = profile.filter(|_| has_apparmor()) {
        let text = format!("exec {name}");
        write("apparmor/exec", &text)
            .or_else(|e| match e.raw_os_error() {
                // Before Linux 5.1 there was one file for all.
                Some(errno::ENOENT) => write("exec", &text),
                _ => Err(e),
            })
            .map_err(RuntimeError::process(format!("set the AppArmor profile `{name}`")))?;
    }
    if let Some(context) = context {
        write("exec", context).map_err(RuntimeError::process(format!("set the SELinux label `{context}`")))?;
    }
    Ok(())
}

fn write(name: &str, text: &str) -> io::Result<()> {
    // `thread-self` is a link that procfs makes itself.
    let file = path::open_proc(&Path::new("thread-self/attr").join(name), path::O_WRONLY)?;
    std::fs::File::from(file).write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_nobody_enforces_are_refused_by_name() {
        let process = |more: &str| -> Process {
            serde_json::from_str(&format!(r#"{{"user":{{}},"cwd":"/"{more}}}"#)).expect("a process")
        };
        check(&process("")).expect("nothing is asked for");
        check(&process(r#","apparmorProfile":"","selinuxLabel":"""#)).expect("empty is nothing");
        check(&process(r#","apparmorProfile":"unconfined""#)).expect("no profile");
        for (json, field, enforced) in [
            (r#","apparmorProfile":"x""#, APPARMOR, has_apparmor()),
            (r#","selinuxLabel":"x""#, SELINUX, has_selinux()),
        ] {
            match check(&process(json)) {
                Ok(()) => assert!(enforced, "{field}"),
                Err(RuntimeError::Spec { field: named, .. }) => assert!(!enforced && named == field, "{named}"),
                Err(other) => panic!("{other}"),
            }
        }
    }
}
