//! Which containers a verb means: names, ids, `--latest`, `--all`, `--filter`, `--cidfile`.

use super::super::args::Pick;
use super::super::failure::{Failure, say_error};
use super::super::time;
use crate::disk::durable;
use crate::engine::filter::Filter;
use crate::engine::view::ContainerView;
use crate::engine::{Engine, EngineError};
use std::path::PathBuf;

/// Bytes of a cid file at the most.
const CIDFILE_BYTES: u64 = 4096;

/// What was said about which containers are meant.
#[derive(Debug, Default)]
pub struct Choice<'a> {
    /// The one made last.
    pub latest: bool,
    /// All that `among` lets through.
    pub all: bool,
    /// Conditions.
    pub filter: &'a [String],
    /// Files that hold ids.
    pub cidfile: &'a [PathBuf],
    /// Names and ids.
    pub names: &'a [String],
    /// A missing container is no error.
    pub ignore: bool,
}

impl<'a> Choice<'a> {
    /// From the arguments that most verbs share.
    pub fn of(pick: &'a Pick, all: bool) -> Choice<'a> {
        Choice {
            latest: pick.latest,
            all,
            filter: &pick.filter,
            cidfile: &pick.cidfile,
            names: &pick.containers,
            ignore: false,
        }
    }

    /// What to type, and so to print, for each container that is meant; missing ones are in it too.
    pub fn names(&self, engine: &Engine, among: impl Fn(&ContainerView) -> bool) -> Result<Vec<String>, Failure> {
        let mut names = self.names.to_vec();
        for path in self.cidfile {
            match durable::read(path, CIDFILE_BYTES) {
                Ok(bytes) => names.push(String::from_utf8_lossy(&bytes).trim().to_owned()),
                Err(error) if error.is_missing() && self.ignore => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.latest {
            names.push(latest(engine)?.record.id.hex());
        }
        if self.all || !self.filter.is_empty() {
            let filter = Filter::parse(self.filter)?;
            let found = engine.list(&filter, time::now())?;
            // With conditions alone, those decide; with --all, the verb does.
            let meant = found
                .into_iter()
                .filter(|view| if self.filter.is_empty() { among(view) } else { true });
            names.extend(meant.map(|view| view.record.id.hex()));
        } else if names.is_empty() && self.cidfile.is_empty() {
            return Err(Failure::new("you must provide at least one name or id"));
        }
        Ok(names)
    }
}

/// The container made last.
pub fn latest(engine: &Engine) -> Result<ContainerView, Failure> {
    let found = engine.list(&Filter::default(), time::now())?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| EngineError::NoContainer("--latest".to_owned()).into())
}

/// Does something to each, goes on after errors, and gives the exit code of the last error.
pub fn each(names: &[String], ignore: bool, mut work: impl FnMut(&str) -> Result<(), Failure>) -> Result<u8, Failure> {
    let mut code = 0;
    for name in names {
        match work(name) {
            Ok(()) => {}
            Err(failure) if ignore && failure.is_missing() => {}
            Err(failure) => {
                if !failure.message.is_empty() {
                    say_error(&failure.message);
                }
                code = failure.code;
            }
        }
    }
    Ok(code)
}
