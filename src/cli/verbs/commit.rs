//! import and commit.

use super::super::args::{CommitArgs, ImportArgs};
use super::super::compose;
use super::super::failure::Failure;
use super::super::progress::Show;
use super::print;
use super::transfer::Given;
use crate::engine::Engine;
use crate::engine::commit::Words;
use crate::sys::tty;
use std::os::fd::AsFd as _;

pub fn import(engine: &Engine, args: &ImportArgs, mut given: Given) -> Result<u8, Failure> {
    let input = match (given.pop().flatten(), args.file.to_str()) {
        (Some(input), _) => input,
        (None, Some(url)) => engine.download(url)?,
        (None, None) => return Err(Failure::new("there is nothing to import")),
    };
    if tty::is_terminal(input.as_fd()) {
        return Err(Failure::new("cannot read from terminal, use command-line redirection"));
    }
    let words = Words {
        author: None,
        message: args.message.clone(),
        changes: args.change.clone(),
    };
    let platform = compose::platform(&args.platform)?;
    let mut show = Show::new(args.quiet);
    let image = engine.import(input, args.name.as_deref(), platform, &words, &mut |step| {
        show.step(step)
    })?;
    show.finish();
    print(&format!("{}\n", image.id.hex()))?;
    Ok(0)
}

pub fn commit(engine: &Engine, args: &CommitArgs) -> Result<u8, Failure> {
    if !matches!(args.format.as_str(), "oci" | "docker") {
        return Err(Failure::new(format!("unknown format `{}`: use oci", args.format)));
    }
    let words = Words {
        author: args.author.clone(),
        message: args.message.clone(),
        changes: args.change.clone(),
    };
    let pause = args.pause.unwrap_or(true);
    let mut show = Show::new(args.quiet);
    let image = engine.commit(&args.container, args.name.as_deref(), &words, pause, &mut |step| {
        show.step(step);
    })?;
    show.finish();
    print(&format!("{}\n", image.id.hex()))?;
    Ok(0)
}
