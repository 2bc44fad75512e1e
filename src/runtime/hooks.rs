//! Programs of the caller's that a bundle names for moments in a container's life (config.md, "POSIX-platform Hooks").

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use super::error::RuntimeError;
use crate::sys::{process, socket};
use crate::types::oci::runtime::Hook;

/// What a hook reads from its standard input (runtime.md, "State").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HookState {
    /// Version of the specification.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// The container's name.
    pub id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: &'static str,
    /// The first process, in the caller's pid namespace; not there for what has stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Absolute path.
    pub bundle: PathBuf,
    /// As in `config.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Runs hooks one after the other; the first that fails is the error. `kind` is the field's name.
pub fn run(kind: &str, hooks: Option<&Vec<Hook>>, state: &HookState) -> Result<(), RuntimeError> {
    let Some(hooks) = hooks.filter(|hooks| !hooks.is_empty()) else {
        return Ok(());
    };
    // Maps with texts as keys always become JSON.
    let text = serde_json::to_vec(state).unwrap_or_default();
    for hook in hooks {
        run_one(hook, &text).map_err(|problem| RuntimeError::Hook {
            kind: kind.to_owned(),
            path: hook.path.display().to_string(),
            problem,
        })?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<(), String> {
    let mut command = Command::new(&hook.path);
    let args = hook.args.as_deref().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    command
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for (name, value) in hook.env.iter().flatten().filter_map(|var| var.split_once('=')) {
        command.env(name, value);
    }
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // It need not read what it is told; the state fits into the pipe.
        let _ = stdin.write_all(state);
    }
    let timeout = hook.timeout.and_then(|seconds| u64::try_from(seconds).ok());
    if let Some(seconds) = timeout
        && !ends_within(&child, Duration::from_secs(seconds))
    {
        // Whether it has ended or was killed, its status is taken.
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("did not end within {seconds} s"));
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(format!("exit status {code}")),
        (None, signal) => Err(format!("signal {}", signal.unwrap_or_default())),
    }
}

#[allow(clippy::cast_possible_wrap, reason = "process numbers are at most 2^22")]
fn ends_within(child: &Child, time: Duration) -> bool {
    // A pidfd can be read when its process has ended.
    let ended = process::pidfd_open(child.id() as i32).and_then(|pidfd| socket::wait_readable(pidfd.as_fd(), time));
    ended.unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Vec<Hook> {
        vec![Hook {
            path: "/bin/sh".into(),
            args: Some(vec!["hook".into(), "-c".into(), script.into()]),
            env: Some(vec!["A=b".into()]),
            timeout,
        }]
    }

    #[test]
    fn hooks_read_the_state_and_have_their_own_environment() {
        let state = HookState {
            oci_version: "1.2.0".into(),
            id: "x".into(),
            status: "created",
            pid: Some(7),
            bundle: "/b".into(),
            annotations: None,
        };
        let expected = r#"{"ociVersion":"1.2.0","id":"x","status":"created","pid":7,"bundle":"/b"}"#;
        let script = format!("test \"$(cat)\" = '{expected}' && test $A = b && test $0 = /bin/sh && test -z \"$HOME\"");
        let shell = hook(&script.replace("$0", "/bin/sh"), Some(10));
        run("prestart", Some(&shell), &state).expect("all is as told");
        run("prestart", None, &state).expect("nothing to do");
    }

    #[test]
    fn failing_and_endless_hooks_are_errors_by_name() {
        for (script, timeout, text) in [
            ("exit 3", None, "`/bin/sh` in `hooks.poststop`: exit status 3"),
            ("kill -9 $$", None, "signal 9"),
            ("exec sleep 30", Some(1), "did not end within 1 s"),
        ] {
            let error = run("poststop", Some(&hook(script, timeout)), &HookState::default()).expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
