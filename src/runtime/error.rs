//! What may go wrong between a bundle and a running program: one error for parent and child.
//!
//! The child's error crosses a socket and becomes the parent's, so every variant is plain data.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::sys::errno;

/// An error number of the kernel, shown as its sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errno(pub i32);

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Errno::from(&error)
    }
}

impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Self {
        // Errors made by the standard library carry no number; those that may come here are about short or odd data.
        Errno(error.raw_os_error().unwrap_or(match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => errno::ETIMEDOUT,
            io::ErrorKind::NotFound => errno::ENOENT,
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => errno::EINVAL,
            _ => errno::EIO,
        }))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = io::Error::from_raw_os_error(self.0).to_string();
        f.write_str(text.split(" (os error").next().unwrap_or(&text))
    }
}

/// Why a container or a process in one could not be made or started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The bundle asks for what is not there yet or cannot be here.
    #[error("config.json: `{field}`: {problem}")]
    Spec {
        /// The field, as the specification writes it.
        field: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The process could not be made.
    #[error("cannot make the container's process: {errno}{}", clone_hint(*.errno))]
    Clone {
        /// Of clone3(2).
        errno: Errno,
    },
    /// The id maps were refused.
    #[error(
        "cannot map the container's ids `{uids}` and groups `{gids}`: {errno}; the store's own map must contain them"
    )]
    IdMap {
        /// The uid map's text.
        uids: String,
        /// The gid map's text.
        gids: String,
        /// Of the write.
        errno: Errno,
    },
    /// The process could not be put into its control group.
    #[error("cannot enter the container's control group: {problem}")]
    Cgroup {
        /// The words of the control group writer.
        problem: String,
    },
    /// Joining a running container's namespaces failed.
    #[error("cannot join the namespaces of process {pid}: {errno}")]
    Join {
        /// The container's first process.
        pid: i32,
        /// Of setns(2).
        errno: Errno,
    },
    /// Parent and child could not talk.
    #[error("the socket between dunlin and the container's first process: {errno}")]
    Socket {
        /// Of the call.
        errno: Errno,
    },
    /// The child did not answer.
    #[error("the container's process did not get ready within {seconds} s (it was at: {waiting_for})")]
    Timeout {
        /// How long was waited.
        seconds: u64,
        /// What for.
        waiting_for: String,
    },
    /// The child ended without a word.
    #[error("the container's process ended before it ran its program ({how}); its memory limit may be too low")]
    Died {
        /// `exit code 1`, `signal 9`.
        how: String,
    },
    /// Setting up the process itself failed.
    #[error("cannot {action}: {errno}")]
    Process {
        /// What was tried, with its object: "set host name `x`".
        action: String,
        /// Of the call.
        errno: Errno,
    },
    /// The root file system could not be mounted.
    #[error("cannot mount the root file system at `{target}`: {problem}: {errno}")]
    Root {
        /// Where.
        target: String,
        /// Which part.
        problem: String,
        /// Of the call.
        errno: Errno,
    },
    /// A mount failed.
    #[error("mount `{source_name}` to `{target}`: {errno}{hint}")]
    Mount {
        /// What should be mounted.
        source_name: String,
        /// Where in the container.
        target: String,
        /// Of the call.
        errno: Errno,
        /// What to do, from `; ` on, or nothing.
        hint: String,
    },
    /// A host path that should be bound cannot be opened.
    #[error("open `{path}` on the host to bind it to `{target}`: {errno}{hint}")]
    Source {
        /// The host's path.
        path: String,
        /// Where it should be.
        target: String,
        /// Of the call.
        errno: Errno,
        /// What to do, from `; ` on, or nothing.
        hint: String,
    },
    /// The place for a mount, a device or a working directory cannot be made in the root.
    #[error("make `{path}` in the container's root file system: {errno}")]
    Target {
        /// Path in the container.
        path: String,
        /// Of the call.
        errno: Errno,
    },
    /// A program of the caller's failed.
    #[error("hook `{path}` in `hooks.{kind}`: {problem}")]
    Hook {
        /// Which list of `hooks`.
        kind: String,
        /// The program.
        path: String,
        /// How.
        problem: String,
    },
    /// A namespace could not be joined.
    #[error("join the {kind} namespace `{path}`: {errno}")]
    JoinPath {
        /// Its kind.
        kind: String,
        /// Its file.
        path: String,
        /// Of open(2) or setns(2).
        errno: Errno,
    },
    /// A kernel setting was refused.
    #[error("set sysctl `{key}` to `{value}`: {problem}")]
    Sysctl {
        /// Its name.
        key: String,
        /// Its value.
        value: String,
        /// Why.
        problem: String,
    },
    /// `USER` names nobody.
    #[error("unable to find user {user}: {problem}")]
    User {
        /// As given.
        user: String,
        /// Why.
        problem: String,
    },
    /// `USER:GROUP` names no group.
    #[error("unable to find group {group}: {problem}")]
    Group {
        /// As given.
        group: String,
        /// Why.
        problem: String,
    },
    /// The user is real but has no number on the host.
    #[error("user {uid}:{gid} is not in this store's range of ids; {fix}")]
    UnmappedUser {
        /// User id in the container.
        uid: u32,
        /// Group id in the container.
        gid: u32,
        /// What to do.
        fix: String,
    },
    /// The working directory cannot be entered.
    #[error("chdir to `{path}`: {errno}")]
    Cwd {
        /// In the container.
        path: String,
        /// Of the call.
        errno: Errno,
    },
    /// The filter could not be made or loaded.
    #[error("seccomp: {problem}")]
    Seccomp {
        /// Why.
        problem: String,
    },
    /// The program is not there: exit code 127.
    #[error("executable file `{program}` not found{}: No such file or directory", if *.searched { " in $PATH" } else { "" })]
    NotFound {
        /// As given.
        program: String,
        /// Whether `PATH` was searched.
        searched: bool,
    },
    /// The program is there but does not run: exit code 126.
    #[error("exec `{program}`: {errno}")]
    NotExecutable {
        /// As given.
        program: String,
        /// Of the call.
        errno: Errno,
    },
}

impl RuntimeError {
    /// podman's exit code: 127 not found, 126 cannot be invoked, 125 anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            RuntimeError::NotFound { .. } => 127,
            // The program is there, its interpreter is not.
            RuntimeError::NotExecutable { errno, .. } if errno.0 == errno::ENOENT => 127,
            RuntimeError::NotExecutable { .. } | RuntimeError::Cwd { .. } => 126,
            RuntimeError::User { .. } | RuntimeError::Group { .. } => 126,
            _ => 125,
        }
    }

    /// [`RuntimeError::Spec`] of its two texts.
    pub fn spec(field: impl Into<String>, problem: impl Into<String>) -> Self {
        RuntimeError::Spec {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// Turns the error of a call into [`RuntimeError::Process`]; `action` reads "set host name `x`".
    pub fn process(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |error| RuntimeError::Process {
            action,
            errno: error.into(),
        }
    }

    /// [`RuntimeError::Socket`] of the call's error.
    pub fn socket(error: io::Error) -> Self {
        RuntimeError::Socket { errno: error.into() }
    }
}

fn clone_hint(errno: Errno) -> &'static str {
    match errno.0 {
        errno::ENOSPC | errno::EUSERS => "; raise `sysctl user.max_user_namespaces` and its neighbours",
        errno::EPERM => "; user namespaces may be switched off: see `sysctl kernel.unprivileged_userns_clone`",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_the_object_and_codes_are_podmans() {
        let not_found = |searched| RuntimeError::NotFound {
            program: "nope".into(),
            searched,
        };
        let cases = [
            (
                not_found(true),
                127,
                "executable file `nope` not found in $PATH: No such file or directory",
            ),
            (
                not_found(false),
                127,
                "executable file `nope` not found: No such file or directory",
            ),
            (
                RuntimeError::NotExecutable {
                    program: "/etc/passwd".into(),
                    errno: Errno(13),
                },
                126,
                "exec `/etc/passwd`: Permission denied",
            ),
            (
                RuntimeError::User {
                    user: "kim".into(),
                    problem: "no matching entries in passwd file".into(),
                },
                126,
                "unable to find user kim: no matching entries in passwd file",
            ),
            (
                RuntimeError::process("set host name `x`")(io::Error::from_raw_os_error(1)),
                125,
                "cannot set host name `x`: Operation not permitted",
            ),
        ];
        for (error, code, text) in cases {
            assert_eq!((error.exit_code(), error.to_string().as_str()), (code, text));
            let packed = postcard::to_allocvec(&error).expect("packs");
            assert_eq!(postcard::from_bytes::<RuntimeError>(&packed).expect("unpacks"), error);
        }
    }
}
