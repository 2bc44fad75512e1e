//! image mount, image unmount.

use super::super::args::{ImageMountArgs, ImageUnmountArgs};
use super::super::failure::{self, Failure};
use super::super::listing;
use super::print;
use crate::engine::Engine;
use crate::store::ImageRecord;
use serde_json::{Value, json};
use std::path::PathBuf;

pub fn image_mount(engine: &Engine, args: &ImageMountArgs) -> Result<u8, Failure> {
    let json = listing::wants_json(args.format.as_deref())?;
    let mut mounted = Vec::new();
    for image in &args.images {
        mounted.push(engine.mount_image(image)?);
    }
    if args.all {
        for image in engine.images()? {
            mounted.push(engine.mount_image(&image.id.hex())?);
        }
    } else if args.images.is_empty() {
        mounted = engine.mounted_images()?;
    }
    let text = match (json, &mounted[..]) {
        (true, _) => listing::json(&Value::Array(mounted.iter().map(shown).collect())),
        (false, [(_, place)]) if args.images.len() == 1 => format!("{}\n", place.display()),
        (false, _) => mounted
            .iter()
            .map(|(image, place)| {
                let name = image.names.first().map_or_else(|| image.id.hex(), ToString::to_string);
                format!("{name} {}\n", place.display())
            })
            .collect(),
    };
    print(&text)?;
    Ok(0)
}

fn shown((image, place): &(ImageRecord, PathBuf)) -> Value {
    let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
    json!({"id": image.id.hex(), "Names": names, "Repositories": names, "mountpoint": place.to_string_lossy()})
}

pub fn image_unmount(engine: &Engine, args: &ImageUnmountArgs) -> Result<u8, Failure> {
    let mut code = 0;
    let images: Vec<Result<ImageRecord, Failure>> = match args.all {
        true => engine
            .mounted_images()?
            .into_iter()
            .map(|(image, _)| Ok(image))
            .collect(),
        false => args.images.iter().map(|typed| Ok(engine.image(typed)?)).collect(),
    };
    for image in images {
        let done = image.and_then(|image| {
            engine.unmount_image(&image, args.force)?;
            print(&format!("{}\n", image.id.hex()))
        });
        if let Err(error) = done {
            failure::say_error(&error.to_string());
            code = failure::OWN;
        }
    }
    Ok(code)
}
