//! pull, and the pull before run and create.

use super::super::args::{PullArgs, RegistryArgs};
use super::super::compose;
use super::super::failure::{Failure, say};
use super::super::progress::Show;
use super::print;
use super::transfer::Given;
use crate::engine::Engine;
use crate::engine::pull::Reach;
use crate::image::layout::Transport;
use crate::registry::names::Meaning;
use crate::sys::tty;
use crate::types::platform::Platform;
use crate::types::reference::Reference;
use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::os::fd::AsFd as _;

/// When and how `run` and `create` pull.
pub struct Wish {
    policy: Policy,
    quiet: bool,
    reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Missing,
    Always,
    Never,
    Newer,
}

impl Wish {
    /// From the flags.
    pub fn new(
        policy: &str,
        quiet: bool,
        platform: Option<Platform>,
        registry: &RegistryArgs,
    ) -> Result<Wish, Failure> {
        let policy = match policy {
            "missing" | "false" => Policy::Missing,
            "always" | "true" => Policy::Always,
            "never" => Policy::Never,
            "newer" => Policy::Newer,
            other => {
                return Err(Failure::new(format!(
                    "--pull `{other}`: use missing, always, never or newer"
                )));
            }
        };
        Ok(Wish {
            policy,
            quiet,
            reach: reach(platform, registry),
        })
    }
}

/// How a registry is reached, from the flags.
pub fn reach(platform: Option<Platform>, registry: &RegistryArgs) -> Reach {
    Reach {
        platform,
        authfile: registry.authfile.clone(),
        creds: registry.creds.clone(),
        cert_dir: registry.cert_dir.clone(),
        tls_verify: registry.tls_verify,
        signature_policy: registry.signature_policy.clone(),
        ..Reach::default()
    }
}

/// Makes sure that the image is in the store, as the policy says; returns what to call it.
pub fn provide(engine: &Engine, typed: &str, wish: &Wish) -> Result<String, Failure> {
    let here = match engine.image(typed) {
        Ok(image) => Some(image),
        Err(error) if error.is_no_image() => None,
        Err(error) => return Err(error.into()),
    };
    let fits = here.as_ref().is_some_and(|image| {
        let wanted = wish.reach.platform.as_ref();
        wanted.is_none_or(|wanted| wanted.distance(&image.platform).is_some())
    });
    match (wish.policy, fits) {
        (Policy::Missing | Policy::Never, true) => return Ok(typed.to_owned()),
        (Policy::Never, false) => return Err(Failure::new(format!("{typed}: image not known"))),
        // An id names what is in the store, not what is in a registry.
        (_, true) if here.as_ref().is_some_and(|image| image.id.hex().starts_with(typed)) => {
            return Ok(typed.to_owned());
        }
        _ => {}
    }
    match fetch(engine, typed, None, &wish.reach, wish.quiet) {
        Ok((name, _)) => Ok(name),
        Err(failure) if wish.policy == Policy::Newer && fits => {
            crate::warn!("{failure}; the image that is here is used");
            Ok(typed.to_owned())
        }
        Err(failure) => Err(failure),
    }
}

/// Pulls what was typed; returns its name in full and its id. `archive` is opened already where it is one.
fn fetch(
    engine: &Engine,
    typed: &str,
    archive: Option<File>,
    reach: &Reach,
    quiet: bool,
) -> Result<(String, String), Failure> {
    let mut show = Show::new(quiet);
    if let Some(place) = Transport::parse(typed) {
        let image = engine.pull_files(place, archive, reach, &mut |step| show.step(step))?;
        show.finish();
        let name = image.names.first().map_or_else(|| image.id.hex(), ToString::to_string);
        return Ok((name, image.id.hex()));
    }
    for transport in ["docker-daemon:", "containers-storage:"] {
        if typed.starts_with(transport) {
            return Err(Failure::new(format!(
                "transport `{transport}` is not supported; use docker://, oci:, oci-archive:, docker-archive: or dir:"
            )));
        }
    }
    let reference = match engine.resolve(typed)? {
        Meaning::One(reference) => reference,
        Meaning::Ambiguous(references) => choose(typed, references)?,
    };
    if !quiet {
        say(&format!("Trying to pull {reference}..."));
    }
    let image = engine.pull(&reference, reach, &mut |step| show.step(step))?;
    show.finish();
    Ok((reference.to_string(), image.id.hex()))
}

/// Asks which registry is meant, on a terminal; elsewhere that is an error.
fn choose(typed: &str, references: Vec<Reference>) -> Result<Reference, Failure> {
    let list: Vec<String> = references.iter().map(ToString::to_string).collect();
    let (input, output) = (io::stdin(), io::stderr());
    if !tty::is_terminal(input.as_fd()) || !tty::is_terminal(output.as_fd()) {
        return Err(Failure::new(format!(
            "short name `{typed}` may be any of {}: say which one; there is no terminal to ask on",
            list.join(", ")
        )));
    }
    let mut text = format!("Several registries may have `{typed}`:\n");
    for (number, name) in list.iter().enumerate() {
        text.push_str(&format!("  {}  {name}\n", number + 1));
    }
    say(text.trim_end());
    let mut errors = output.lock();
    write!(errors, "Which one? [1-{}] ", list.len())?;
    errors.flush()?;
    drop(errors);
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    let number: Option<usize> = answer.trim().parse().ok();
    let chosen = number.and_then(|number| references.into_iter().nth(number.checked_sub(1)?));
    chosen.ok_or_else(|| Failure::new(format!("`{}` is none of them", answer.trim())))
}

pub fn pull(engine: &Engine, args: &PullArgs, given: Given) -> Result<u8, Failure> {
    let reach = reach(compose::platform(&args.platform)?, &args.registry);
    for (typed, archive) in args.images.iter().zip(given) {
        let (_, id) = fetch(engine, typed, archive, &reach, args.quiet)?;
        print(&format!("{id}\n"))?;
    }
    Ok(0)
}
