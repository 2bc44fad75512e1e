//! tag, untag, image exists.

use super::super::args::{ExistsArgs, TagArgs, UntagArgs};
use super::super::failure::Failure;
use crate::engine::Engine;

pub fn tag(engine: &Engine, args: &TagArgs) -> Result<u8, Failure> {
    engine.tag(&args.image, &args.names)?;
    Ok(0)
}

pub fn untag(engine: &Engine, args: &UntagArgs) -> Result<u8, Failure> {
    engine.untag(&args.image, &args.names)?;
    Ok(0)
}

/// 0 or 1, without a word.
pub fn exists(engine: &Engine, args: &ExistsArgs) -> Result<u8, Failure> {
    match engine.image(&args.name) {
        Ok(_) => Ok(0),
        Err(error) if error.is_no_image() => Ok(1),
        Err(error) => Err(error.into()),
    }
}
