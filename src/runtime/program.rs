//! The program of a container: found as the shell would find it, by its user, and executed.

use std::ffi::CString;

use super::error::{Errno, RuntimeError};
use crate::sys::{errno, path, process};

/// Longest part of a program's name that an error repeats, in characters.
const SHOWN: usize = 256;

/// A program that is there and may be executed.
#[derive(Debug)]
pub struct Program {
    name: String,
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Finds `args[0]`: a name with a slash from the working directory, any other along `PATH` of `env`. Call it as the
    /// user who will run it.
    pub fn find(args: &[String], env: &[String]) -> Result<Self, RuntimeError> {
        let name = args.first().filter(|name| !name.is_empty()).ok_or_else(|| {
            RuntimeError::spec("process.args", "is empty; give a command or use an image that has one")
        })?;
        let shown: String = name.chars().take(SHOWN).collect();
        let path = if name.contains('/') {
            let path = c_string(name, "process.args")?;
            runs(&path).map_err(|errno| not_run(&shown, false, errno))?;
            path
        } else {
            search(name, &shown, env)?
        };
        Ok(Program {
            name: shown,
            path,
            args: args
                .iter()
                .map(|arg| c_string(arg, "process.args"))
                .collect::<Result<_, _>>()?,
            env: env
                .iter()
                .map(|var| c_string(var, "process.env"))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Becomes the program. Returns only the error.
    pub fn exec(&self) -> RuntimeError {
        let error = process::exec(&self.path, &self.args, &self.env);
        RuntimeError::NotExecutable {
            program: self.name.clone(),
            errno: error.into(),
        }
    }
}

fn search(name: &str, shown: &str, env: &[String]) -> Result<CString, RuntimeError> {
    let path = env.iter().find_map(|var| var.strip_prefix("PATH=")).unwrap_or_default();
    let mut last = Errno(errno::ENOENT);
    for dir in path.split(':') {
        // An empty part is the working directory.
        let dir = if dir.is_empty() { "." } else { dir };
        let candidate = c_string(&format!("{dir}/{name}"), "process.args")?;
        match runs(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno(errno::ENOENT | errno::ENOTDIR)) => {}
            Err(other) => last = other,
        }
    }
    Err(not_run(shown, true, last))
}

/// Whether the file is a program to the caller.
fn runs(path: &std::ffi::CStr) -> Result<(), Errno> {
    use std::os::unix::ffi::OsStrExt;
    path::may_execute(path)?;
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    if std::fs::metadata(path)?.is_dir() {
        Err(Errno(errno::EISDIR))
    } else {
        Ok(())
    }
}

fn not_run(program: &str, searched: bool, errno: Errno) -> RuntimeError {
    let program = program.to_owned();
    match errno.0 {
        errno::ENOENT | errno::ENOTDIR => RuntimeError::NotFound { program, searched },
        _ => RuntimeError::NotExecutable { program, errno },
    }
}

fn c_string(text: &str, field: &str) -> Result<CString, RuntimeError> {
    CString::new(text).map_err(|_| RuntimeError::spec(field, "holds a NUL byte"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(args: &[&str], env: &[&str]) -> Result<Program, RuntimeError> {
        let own = |list: &[&str]| list.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
        Program::find(&own(args), &own(env))
    }

    #[test]
    fn programs_are_found_along_path() {
        let program = find(&["sh", "-c", "true"], &["A=b", "PATH=/nonexistent::/etc:/bin"]).expect("sh");
        assert_eq!(program.path.as_c_str(), c"/bin/sh");
        assert_eq!((program.args.len(), program.env.len()), (3, 2));
        assert_eq!(find(&["/bin/sh"], &[]).expect("sh").path.as_c_str(), c"/bin/sh");
    }

    #[test]
    fn exit_codes_tell_not_found_from_not_executable() {
        let cases: [(&[&str], &[&str], u8, &str); 6] = [
            (
                &["nope"],
                &["PATH=/bin"],
                127,
                "executable file `nope` not found in $PATH: No such file or directory",
            ),
            (
                &["/nope"],
                &[],
                127,
                "executable file `/nope` not found: No such file or directory",
            ),
            (
                &["/etc/passwd/x"],
                &[],
                127,
                "executable file `/etc/passwd/x` not found: No such file or directory",
            ),
            (&["/etc/passwd"], &[], 126, "exec `/etc/passwd`: Permission denied"),
            (&["/etc"], &[], 126, "exec `/etc`: Is a directory"),
            (&["passwd"], &["PATH=/etc"], 126, "exec `passwd`: Permission denied"),
        ];
        for (args, env, code, text) in cases {
            let error = find(args, env).expect_err(text);
            assert_eq!((error.exit_code(), error.to_string().as_str()), (code, text));
        }
        assert_eq!(find(&[], &[]).expect_err("nothing to run").exit_code(), 125);
        assert_eq!(find(&["a\0b"], &["PATH=/bin"]).expect_err("NUL").exit_code(), 125);
    }
}
