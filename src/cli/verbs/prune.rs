//! image prune.

use super::super::args::{ContainerPruneArgs, ImagePruneArgs};
use super::super::failure::Failure;
use super::super::time;
use super::images::Wanted;
use super::print;
use super::system::kept;
use crate::engine::Engine;
use crate::engine::filter::Filter;
use crate::engine::prune::Pruned;
use std::io::{self, BufRead as _, Read as _, Write as _};

/// Bytes of an answer that are read.
const ANSWER_BYTES: u64 = 256;

pub fn image_prune(engine: &Engine, args: &ImagePruneArgs) -> Result<u8, Failure> {
    let wanted = Wanted::new(engine, &args.filter, time::now())?;
    let what = if args.all {
        "all images without at least one container associated with them"
    } else {
        "all dangling images"
    };
    if !args.force && !confirmed(what)? {
        return Ok(0);
    }
    let mut pruned = Pruned::default();
    engine.prune_images(
        args.all,
        &kept(engine)?,
        &|image| wanted.fits(engine, image),
        &mut pruned,
    )?;
    print(&pruned.images.iter().map(|id| id.hex() + "\n").collect::<String>())?;
    Ok(0)
}

pub fn container_prune(engine: &Engine, args: &ContainerPruneArgs) -> Result<u8, Failure> {
    let filter = Filter::parse(&args.filter)?;
    if !args.force && !confirmed("all non running containers")? {
        return Ok(0);
    }
    let mut pruned = Pruned::default();
    let done = engine.prune_containers(&kept(engine)?, &filter, &mut pruned);
    print(&pruned.containers.iter().map(|id| id.hex() + "\n").collect::<String>())?;
    done?;
    Ok(0)
}

/// Asks whether to remove; everything but a yes is a no.
pub fn confirmed(what: &str) -> Result<bool, Failure> {
    let mut errors = io::stderr().lock();
    write!(
        errors,
        "WARNING! This command removes {what}.\nAre you sure you want to continue? [y/N] "
    )?;
    errors.flush()?;
    drop(errors);
    let mut answer = String::new();
    io::stdin().lock().take(ANSWER_BYTES).read_line(&mut answer)?;
    Ok(answer.trim_start().starts_with(['y', 'Y']))
}
