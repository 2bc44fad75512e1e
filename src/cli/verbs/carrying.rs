//! cp and export.
//!
//! Files of the host are read and written by a process of the caller (`cp-local`), which is started before dunlin becomes the
//! store's owner; files of containers by a worker. Between them goes an archive.

use super::super::args::{CpArgs, CpLocalArgs, ExportArgs};
use super::super::failure::Failure;
use super::transfer::Given;
use crate::engine::Engine;
use crate::engine::view::ContainerView;
use crate::image::carry::{self, Found};
use crate::sys::tty;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Bytes of a name that the caller's side is told.
const NAME_BYTES: u64 = 4096;

/// One side of `cp`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    /// A path of a container.
    Inside { container: String, path: String },
    /// An archive on stdin or stdout.
    Stream,
    /// A path of the host.
    Here(String),
}

impl Side {
    /// `CONTAINER:PATH`, `-`, or a path: one with a colon begins with `.` or `/`.
    fn parse(text: &str) -> Side {
        match text.split_once(':') {
            _ if text == "-" => Side::Stream,
            Some((container, path)) if !container.is_empty() && !text.starts_with(['.', '/']) => Side::Inside {
                container: container.to_owned(),
                path: path.to_owned(),
            },
            _ => Side::Here(text.to_owned()),
        }
    }
}

/// What was done as the caller.
pub struct Sides {
    from: Side,
    to: Side,
    /// The host's side of it: what is there, and the process that reads or writes it.
    here: Option<(Found, Child)>,
}

/// Where what is carried ends up.
#[derive(Debug, PartialEq, Eq)]
struct Goal {
    /// The directory that the archive is taken into.
    dir: PathBuf,
    /// What it is called there; nothing for what is in a directory.
    name: Option<Vec<u8>>,
}

/// cp's rules, as podman and docker have them.
fn goal((source, from): (Found, &str), (there, to): (Found, &str)) -> Result<Goal, String> {
    let contents = from == "." || from.ends_with("/.");
    let base = Path::new(from).file_name().filter(|_| !contents);
    let beside = || {
        let path = Path::new(to);
        let name = path.file_name().map(|name| name.as_bytes().to_vec());
        Goal {
            dir: parent(path),
            name,
        }
    };
    match (source, there) {
        (Found::Nothing, _) => Err(format!("`{from}`: no such file or directory")),
        (Found::Other, _) => Err(format!("`{from}` is neither a file nor a directory")),
        (_, Found::Other) => Err(format!("`{to}` is neither a file nor a directory")),
        (_, Found::Directory) => Ok(Goal {
            dir: to.into(),
            name: base.map(|name| name.as_bytes().to_vec()),
        }),
        (Found::Directory, Found::File) => Err(format!("`{to}`: a directory cannot take the place of a file")),
        (Found::File, Found::Nothing) if to.ends_with('/') => Err(format!("`{to}`: no such directory")),
        (_, Found::File | Found::Nothing) => Ok(beside()),
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => ".".into(),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    }
}

/// Looks at the host's side and starts its process, as the caller.
pub fn prepare(args: &CpArgs) -> Result<Sides, Failure> {
    if args.overwrite {
        return Err(Failure::new(
            "--overwrite: a directory never takes the place of a file, nor the reverse; remove what is there first",
        ));
    }
    let (from, to) = (Side::parse(&args.from), Side::parse(&args.to));
    let here = match (&from, &to) {
        (Side::Here(path), Side::Inside { .. }) => Some((found_here(path)?, helper("--pack", Path::new(path))?)),
        (Side::Inside { .. }, Side::Here(path)) => {
            let found = found_here(path)?;
            let path = Path::new(path);
            let dir = if found == Found::Directory {
                path.to_owned()
            } else {
                parent(path)
            };
            if !dir.is_dir() {
                return Err(Failure::new(format!("`{}`: no such directory", dir.display())));
            }
            Some((found, helper("--unpack", &dir)?))
        }
        (Side::Inside { .. }, _) | (Side::Stream, Side::Inside { .. }) => None,
        _ => return Err(Failure::new("name a container: FROM, TO, or both are CONTAINER:PATH")),
    };
    Ok(Sides { from, to, here })
}

fn found_here(path: &str) -> Result<Found, Failure> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(Found::Directory),
        Ok(meta) if meta.is_file() => Ok(Found::File),
        Ok(_) => Ok(Found::Other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(Failure::new(format!("`{path}`: {error}"))),
    }
}

fn helper(what: &str, path: &Path) -> Result<Child, Failure> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("cp-local").arg(what).arg(path).stdin(Stdio::piped());
    if what == "--pack" {
        command.stdout(Stdio::piped());
    }
    Ok(command.spawn()?)
}

/// The caller's side.
pub fn cp_local(args: &CpLocalArgs) -> Result<u8, Failure> {
    if let Some(dir) = &args.unpack {
        let input: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
        let taken = carry::take_here(dir, input.into());
        taken.map_err(|error| Failure::new(format!("`{}`: {error}", dir.display())))?;
    }
    if let Some(path) = &args.pack {
        let mut name = Vec::new();
        io::stdin().lock().take(NAME_BYTES).read_to_end(&mut name)?;
        let out: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
        let given = carry::give_from_here(path, (!name.is_empty()).then_some(&name[..]), out.into());
        // Who does not take all of it says why.
        if let Err(error) = given
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(Failure::new(format!("`{}`: {error}", path.display())));
        }
    }
    Ok(0)
}

pub fn cp(engine: &Engine, sides: Sides) -> Result<u8, Failure> {
    let Sides { from, to, here } = sides;
    match (from, to, here) {
        (Side::Here(from), Side::Inside { container, path }, Some((found, mut helper))) => {
            let view = engine.inspect(&container)?;
            let goal = inside(engine, &view, &path)
                .and_then(|there| goal((found, &from), (there, &path)).map_err(Failure::new))
                .and_then(|goal| reachable(engine, &view, goal));
            let goal = match goal {
                Ok(goal) => goal,
                Err(failure) => {
                    // It has nothing to do.
                    let _ = helper.kill();
                    let _ = helper.wait();
                    return Err(failure);
                }
            };
            if let Some(mut name) = helper.stdin.take() {
                name.write_all(goal.name.as_deref().unwrap_or_default())?;
            }
            let pipe: OwnedFd = helper
                .stdout
                .take()
                .ok_or_else(|| Failure::new("cp-local has no output"))?
                .into();
            let done = engine.carry_in(&view, &goal.dir, pipe);
            ended(helper)?;
            done?;
        }
        (Side::Inside { container, path }, Side::Here(to), Some((there, mut helper))) => {
            let view = engine.inspect(&container)?;
            let found = source(engine, &view, &path)?;
            let goal = goal((found, &path), (there, &to)).map_err(Failure::new)?;
            let pipe: OwnedFd = helper
                .stdin
                .take()
                .ok_or_else(|| Failure::new("cp-local has no input"))?
                .into();
            let done = engine.carry_out(&view, Path::new(&path), goal.name.as_deref(), pipe);
            ended(helper)?;
            done?;
        }
        (Side::Inside { container, path }, Side::Stream, None) => {
            let view = engine.inspect(&container)?;
            let found = source(engine, &view, &path)?;
            let goal = goal((found, &path), (Found::Directory, "")).map_err(Failure::new)?;
            engine.carry_out(&view, Path::new(&path), goal.name.as_deref(), output(None)?)?;
        }
        (Side::Stream, Side::Inside { container, path }, None) => {
            let view = engine.inspect(&container)?;
            if inside(engine, &view, &path)? != Found::Directory {
                return Err(Failure::new(format!(
                    "`{path}` of container `{}` is no directory: an archive is taken into one",
                    view.record.name
                )));
            }
            let input: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
            engine.carry_in(&view, Path::new(&path), input)?;
        }
        (
            Side::Inside { container, path },
            Side::Inside {
                container: other,
                path: to,
            },
            None,
        ) => {
            let (view, target) = (engine.inspect(&container)?, engine.inspect(&other)?);
            let found = source(engine, &view, &path)?;
            let goal = goal((found, &path), (inside(engine, &target, &to)?, &to)).map_err(Failure::new);
            let goal = goal.and_then(|goal| reachable(engine, &target, goal))?;
            let (reader, writer) = io::pipe()?;
            let (given, taken) = std::thread::scope(|scope| {
                let (name, view, path) = (goal.name.as_deref(), &view, Path::new(&path));
                let given = scope.spawn(move || engine.carry_out(view, path, name, writer));
                let taken = engine.carry_in(&target, &goal.dir, reader);
                (given.join(), taken)
            });
            taken?;
            given.map_err(|_| Failure::new("the copy was given up"))??;
        }
        _ => return Err(Failure::new("name a container: FROM, TO, or both are CONTAINER:PATH")),
    }
    Ok(0)
}

pub fn export(engine: &Engine, args: &ExportArgs, given: Given) -> Result<u8, Failure> {
    let view = engine.inspect(&args.container)?;
    let file = given.into_iter().next().flatten();
    engine.export(&view, output(file)?)?;
    Ok(0)
}

/// Where an archive goes: never to a terminal.
fn output(file: Option<fs::File>) -> Result<OwnedFd, Failure> {
    match file {
        Some(file) => Ok(file.into()),
        None if tty::is_terminal(io::stdout().as_fd()) => Err(Failure::new(
            "refusing to write an archive to a terminal; name a file, or redirect the output",
        )),
        None => Ok(io::stdout().as_fd().try_clone_to_owned()?),
    }
}

fn inside(engine: &Engine, view: &ContainerView, path: &str) -> Result<Found, Failure> {
    Ok(engine.found_in(view, Path::new(path))?)
}

/// What is carried out of a container must be there.
fn source(engine: &Engine, view: &ContainerView, path: &str) -> Result<Found, Failure> {
    match inside(engine, view, path)? {
        Found::Nothing => Err(missing(path, view)),
        found => Ok(found),
    }
}

/// A new file or directory of a container needs a directory to be in.
fn reachable(engine: &Engine, view: &ContainerView, goal: Goal) -> Result<Goal, Failure> {
    match engine.found_in(view, &goal.dir)? {
        Found::Directory => Ok(goal),
        _ => Err(missing(&goal.dir.to_string_lossy(), view)),
    }
}

fn missing(path: &str, view: &ContainerView) -> Failure {
    Failure::new(format!(
        "`{path}` could not be found on container {}: no such file or directory",
        view.record.name
    ))
}

/// Waits for the caller's side, which has said itself what went wrong.
fn ended(mut helper: Child) -> Result<(), Failure> {
    match helper.wait()? {
        status if status.success() => Ok(()),
        _ => Err(Failure::new("")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let inside = |container: &str, path: &str| Side::Inside {
            container: container.to_owned(),
            path: path.to_owned(),
        };
        for (text, want) in [
            ("web:/etc", inside("web", "/etc")),
            ("web:", inside("web", "")),
            ("-", Side::Stream),
            ("file", Side::Here("file".to_owned())),
            ("./a:b", Side::Here("./a:b".to_owned())),
            ("/a:b", Side::Here("/a:b".to_owned())),
            (":b", Side::Here(":b".to_owned())),
        ] {
            assert_eq!(Side::parse(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_copied_ends_up_where_podman_puts_it() {
        use Found::{Directory, File, Nothing, Other};
        for (source, from, there, to, want) in [
            (File, "/a/f", Directory, "/d", Ok(("/d", Some("f")))),
            (File, "f", File, "/d/g", Ok(("/d", Some("g")))),
            (File, "f", Nothing, "/d/g", Ok(("/d", Some("g")))),
            (File, "f", Nothing, "g", Ok((".", Some("g")))),
            (File, "f", Nothing, "/d/g/", Err(())),
            (Directory, "a/b", Directory, "/d", Ok(("/d", Some("b")))),
            (Directory, "a/b/", Directory, "/d", Ok(("/d", Some("b")))),
            (Directory, "a/b/.", Directory, "/d", Ok(("/d", None))),
            (Directory, ".", Directory, "/d", Ok(("/d", None))),
            (Directory, "/", Directory, "/d", Ok(("/d", None))),
            (Directory, "a/b", Nothing, "/d/c", Ok(("/d", Some("c")))),
            (Directory, "a/b/.", Nothing, "/d/c/", Ok(("/d", Some("c")))),
            (Directory, "a/b", File, "/d/c", Err(())),
            (Nothing, "a", Directory, "/d", Err(())),
            (Other, "a", Directory, "/d", Err(())),
            (File, "a", Other, "/dev/null", Err(())),
        ] {
            let got = goal((source, from), (there, to)).map_err(drop);
            let want = want.map(|(dir, name): (&str, Option<&str>)| Goal {
                dir: dir.into(),
                name: name.map(|name| name.as_bytes().to_vec()),
            });
            assert_eq!(got, want, "{source:?} {from} {there:?} {to}");
        }
    }
}
