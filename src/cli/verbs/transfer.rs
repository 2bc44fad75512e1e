//! push, copy, save, load, and removal from a registry.

use super::super::args::{CopyArgs, DeleteArgs, LoadArgs, PushArgs, SaveArgs, Verb};
use super::super::compose;
use super::super::failure::Failure;
use super::super::progress::Show;
use super::print;
use super::pull::reach;
use crate::config::agent::Settings;
use crate::config::policy::Policy;
use crate::engine::Engine;
use crate::engine::pull::Reach;
use crate::engine::transfer::Wanted;
use crate::image::copy::CopyOptions;
use crate::image::layout::{Transport, normal};
use crate::image::pull::PullOptions;
use crate::image::save::Shape;
use crate::image::sink::{LEVEL, Sink};
use crate::sys::tty;
use crate::types::platform::Platform;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Files of a verb that are opened as the caller, in the order of its arguments.
pub type Given = Vec<Option<File>>;

/// Opens what a verb reads or writes, before dunlin becomes the store's owner.
pub fn given(verb: &Verb) -> Result<Given, Failure> {
    Ok(match verb {
        Verb::Save(args) => vec![save_output(args)?],
        Verb::Export(args) => vec![args.output.as_deref().map(create).transpose()?],
        Verb::Load(args) => vec![match &args.input {
            Some(path) if path.is_dir() => None,
            Some(path) => Some(open(path)?),
            None => Some(own(io::stdin())?),
        }],
        Verb::Import(args) => vec![match args.file.to_str() {
            Some("-") => Some(own(io::stdin())?),
            Some(url) if is_url(url) => None,
            _ => Some(open(&args.file)?),
        }],
        Verb::AgentUpdate(args) if args.source.to_str().is_some_and(|text| text.starts_with("docker://")) => Vec::new(),
        Verb::AgentUpdate(args) => vec![
            Some(open(&args.source)?),
            args.release.as_deref().map(open).transpose()?,
        ],
        Verb::AppApply(args) => {
            let open = |path: &PathBuf| match path.to_str() {
                Some("-") => own(io::stdin()),
                _ => open(path),
            };
            args.files
                .iter()
                .map(|path| open(path).map(Some))
                .collect::<Result<_, _>>()?
        }
        Verb::AppImport(args) => args
            .files
            .iter()
            .map(|path| open(path).map(Some))
            .collect::<Result<_, _>>()?,
        Verb::Push(args) => vec![
            args.digestfile.as_deref().map(create).transpose()?,
            match args.destination.as_deref().and_then(Transport::parse) {
                Some((Transport::OciArchive | Transport::DockerArchive, path, _)) => Some(create(path)?),
                _ => None,
            },
        ],
        Verb::Pull(args) => args
            .images
            .iter()
            .map(|typed| archive(typed))
            .collect::<Result<_, _>>()?,
        _ => Vec::new(),
    })
}

/// Whether an archive is on a web server.
pub fn is_url(file: &str) -> bool {
    file.starts_with("http://") || file.starts_with("https://")
}

fn own(stream: impl AsFd) -> Result<File, Failure> {
    let fd: OwnedFd = stream.as_fd().try_clone_to_owned()?;
    Ok(File::from(fd))
}

/// Opens a file for reading.
fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::new(format!("`{}`: {error}", path.display())))
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|error| Failure::new(format!("`{}`: {error}", path.display())))
}

/// The archive of `oci-archive:…` and `docker-archive:…`.
fn archive(typed: &str) -> Result<Option<File>, Failure> {
    match Transport::parse(typed) {
        Some((Transport::OciArchive | Transport::DockerArchive, path, _)) => open(path).map(Some),
        _ => Ok(None),
    }
}

fn shape(format: &str) -> Result<(Shape, bool), Failure> {
    Ok(match format {
        "docker-archive" => (Shape::Docker, true),
        "oci-archive" => (Shape::Oci, true),
        "oci-dir" => (Shape::Oci, false),
        "docker-dir" => (Shape::Dir, false),
        other => {
            return Err(Failure::new(format!(
                "unknown format `{other}`: use docker-archive, oci-archive, oci-dir or docker-dir"
            )));
        }
    })
}

fn save_output(args: &SaveArgs) -> Result<Option<File>, Failure> {
    let (_, archive) = shape(&args.format)?;
    if args.multi_image_archive && args.format != "docker-archive" {
        return Err(Failure::new(
            "--multi-image-archive only goes with --format docker-archive",
        ));
    }
    match (&args.output, archive) {
        (None, false) => Err(Failure::new(format!(
            "--format {}: name a directory with -o",
            args.format
        ))),
        (None, true) if tty::is_terminal(io::stdout().as_fd()) => {
            Err(Failure::new("refusing to save to terminal. Use -o flag or redirect"))
        }
        (None, true) => own(io::stdout()).map(Some),
        (Some(path), true) => create(path).map(Some),
        (Some(_), false) => Ok(None),
    }
}

pub fn save(engine: &Engine, args: &SaveArgs, mut given: Given) -> Result<u8, Failure> {
    let (shape, _) = shape(&args.format)?;
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from("/dev/stdout"));
    let file = given.pop().flatten();
    let to_file = file.is_some() && args.output.is_some();
    let done = wanted(engine, args).and_then(|wanted| {
        let sink = match file {
            Some(file) => Sink::archive(&path, file),
            None => Sink::folder(&path)?,
        };
        let mut show = Show::new(args.quiet);
        engine.save(&wanted, shape, sink, &mut |step| show.step(step))?;
        show.finish();
        Ok(())
    });
    if done.is_err() && to_file {
        // Half an archive is none; it may be in a folder that is not the store's owner's.
        let _ = std::fs::remove_file(&path);
    }
    done.map(|()| 0)
}

/// As podman has it: the names after the first are more names of the first image, unless each is one.
fn wanted(engine: &Engine, args: &SaveArgs) -> Result<Vec<Wanted>, Failure> {
    if args.multi_image_archive {
        let mut all: Vec<Wanted> = Vec::new();
        for typed in &args.images {
            let one = engine.wanted(typed)?;
            match all.iter_mut().find(|known| known.image.id == one.image.id) {
                Some(known) => known.names.extend(one.names),
                None => all.push(one),
            }
        }
        return Ok(all);
    }
    let mut images = args.images.iter();
    let mut first = match images.next() {
        Some(typed) => engine.wanted(typed)?,
        None => return Ok(Vec::new()),
    };
    for name in images {
        first.names.push(crate::engine::images::new_name(name)?.to_string());
    }
    Ok(vec![first])
}

pub fn push(engine: &Engine, args: &PushArgs, mut given: Given) -> Result<u8, Failure> {
    let shape = match args.format.as_deref() {
        None => None,
        Some("oci") => Some(Shape::Oci),
        Some("v2s2") => Some(Shape::Docker),
        Some(other) => return Err(Failure::new(format!("unknown format `{other}`: use oci or v2s2"))),
    };
    let repack = match (args.compression_format.as_deref(), args.compression_level) {
        (None, None) => None,
        (None | Some("gzip"), level) => match level.unwrap_or(LEVEL) {
            level @ 1..=9 => Some(level),
            level => return Err(Failure::new(format!("compression level {level} is not from 1 to 9"))),
        },
        (Some(other), _) => {
            return Err(Failure::new(format!(
                "unknown compression `{other}`: dunlin compresses with gzip alone"
            )));
        }
    };
    let archive = given.pop().flatten();
    let digestfile = given.pop().flatten();
    let mut show = Show::new(args.quiet);
    if let Some((transport, path, tag)) = args.destination.as_deref().and_then(Transport::parse) {
        if repack.is_some() {
            return Err(Failure::new(format!(
                "`{}`: how layers are compressed is chosen for registries alone",
                path.display()
            )));
        }
        let mut wanted = engine.wanted(&args.image)?;
        if let Some(tag) = tag {
            wanted.names = vec![tag.to_owned()];
        }
        let shape = match transport {
            Transport::Oci | Transport::OciArchive => Shape::Oci,
            Transport::DockerArchive => Shape::Docker,
            Transport::Dir => Shape::Dir,
        };
        let sink = match archive {
            Some(file) => Sink::archive(path, file),
            None => Sink::folder(path)?,
        };
        engine.save(&[wanted], shape, sink, &mut |step| show.step(step))?;
        show.finish();
        return Ok(0);
    }
    let image = engine.image(&args.image)?;
    let typed = match &args.destination {
        Some(typed) => typed.clone(),
        None => engine
            .wanted(&args.image)?
            .names
            .pop()
            .ok_or_else(|| Failure::new(format!("`{}` is an id: say where the image goes", args.image)))?,
    };
    let text = typed.strip_prefix("docker://").unwrap_or(&typed);
    let name = normal(text).ok_or_else(|| Failure::new(format!("`{typed}` is no name in a registry")))?;
    let reach = reach(None, &args.registry);
    let digest = engine.push(&image, &name, (shape, repack), &reach, &mut |step| show.step(step))?;
    show.finish();
    if let Some(mut file) = digestfile {
        file.write_all(digest.to_string().as_bytes())?;
    }
    Ok(0)
}

pub fn copy(settings: &Settings, args: &CopyArgs) -> Result<u8, Failure> {
    let options = CopyOptions {
        platform: compose::platform(&args.platform)?.unwrap_or_else(Platform::host),
        all: args.all,
        program: PullOptions::default().program,
        policy: Policy::default(),
    };
    let end = |creds: &Option<String>, cert_dir: &Option<PathBuf>, tls_verify| Reach {
        authfile: args.authfile.clone(),
        creds: creds.clone(),
        cert_dir: cert_dir.clone(),
        tls_verify,
        signature_policy: args.signature_policy.clone(),
        ..Reach::default()
    };
    let from = end(&args.src_creds, &args.src_cert_dir, args.src_tls_verify);
    let to = end(&args.dest_creds, &args.dest_cert_dir, args.dest_tls_verify);
    let mut show = Show::new(args.quiet);
    let digest = crate::engine::copy::copy(
        settings,
        (&args.source, &from),
        (&args.destination, &to),
        &options,
        &mut |step| show.step(step),
    )?;
    show.finish();
    if let Some(path) = &args.digestfile {
        create(path)?.write_all(digest.to_string().as_bytes())?;
    }
    Ok(0)
}

pub fn delete(settings: &Settings, args: &DeleteArgs) -> Result<u8, Failure> {
    crate::engine::copy::delete(settings, &args.name, &reach(None, &args.registry))?;
    Ok(0)
}

pub fn load(engine: &Engine, args: &LoadArgs, mut given: Given) -> Result<u8, Failure> {
    let input = given.pop().flatten();
    if let (None, Some(file)) = (&args.input, &input)
        && tty::is_terminal(file.as_fd())
    {
        return Err(Failure::new(
            "cannot read from terminal, use command-line redirection or the --input flag",
        ));
    }
    let path = args.input.clone().unwrap_or_else(|| PathBuf::from("/dev/stdin"));
    let mut show = Show::new(args.quiet);
    let images = engine.load(&path, input, &mut |step| show.step(step))?;
    show.finish();
    let mut text = String::new();
    for image in images {
        let mut names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
        if names.is_empty() {
            names.push(image.id.to_string());
        }
        for name in names {
            text.push_str(&format!("Loaded image: {name}\n"));
        }
    }
    print(&text)?;
    Ok(0)
}
