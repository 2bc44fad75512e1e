//! What happened, told and read: the lines of `disk::events`.

use super::{Engine, EngineError, now};
use crate::disk::events::{self, Line};
use crate::types::container::ContainerRecord;
use crate::types::read;
use crate::types::time::Unix;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// Containers whose image is remembered while events are read.
const REMEMBERED: usize = 4096;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Happened {
    /// When.
    pub at: Unix,
    /// `container`, `image` or `volume`.
    pub kind: String,
    /// podman's word.
    pub what: String,
    /// 64 hex digits, or a volume's name.
    pub id: String,
    /// Name of it.
    pub name: String,
    /// Image of a container, where it is known.
    pub image: String,
    /// Exit code.
    #[serde(default)]
    pub code: Option<i32>,
}

impl Engine {
    /// Tells that something happened; that it could not be told is no reason to fail.
    pub(super) fn tell(&self, kind: &str, what: &str, id: &str, name: &str, image: &str) {
        let path = self.layout().events();
        let line = Line {
            at: now(),
            kind,
            what,
            id,
            name,
            image,
            code: None,
        };
        let told = events::prepare(&path).map(|new| {
            if new && let Err(error) = self.own(&path) {
                crate::debug!("{error}");
            }
        });
        if let Err(error) = told.and_then(|()| events::append(&path, &line)) {
            crate::debug!("`{}`: {error}", path.display());
        }
    }

    /// The same of a container.
    pub(super) fn tell_of(&self, record: &ContainerRecord, what: &str) {
        self.tell("container", what, &record.id.hex(), &record.name, &record.image_name);
    }

    /// What happened in this store since its run root was made, the oldest first, as far as it is kept.
    pub fn events(&self) -> Events<'_> {
        Events {
            engine: self,
            file: None,
            begun: false,
            known: BTreeMap::new(),
        }
    }
}

/// A reader of what happened, which may go on.
pub struct Events<'a> {
    engine: &'a Engine,
    file: Option<(BufReader<File>, u64)>,
    begun: bool,
    /// Name and image of containers by their id.
    known: BTreeMap<String, (String, String)>,
}

impl Events<'_> {
    fn path(&self) -> PathBuf {
        self.engine.layout().events()
    }

    /// The next thing that happened; `None` when nothing more did so far.
    pub fn next_event(&mut self) -> Result<Option<Happened>, EngineError> {
        let path = self.path();
        loop {
            let failed = |error| EngineError::io("read", &path)(error);
            if self.file.is_none() {
                let from = if self.begun {
                    path.clone()
                } else {
                    path.with_extension("1")
                };
                self.begun = true;
                match open(&from) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && from == path => return Ok(None),
                    // There was no file before.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    opened => self.file = Some(opened.map_err(failed)?),
                }
            }
            let Some((reader, inode)) = &mut self.file else {
                return Ok(None);
            };
            let mut line = Vec::new();
            reader.read_until(b'\n', &mut line).map_err(failed)?;
            if line.is_empty() {
                // The end, or that of a file which another one came after.
                match fs::metadata(&path) {
                    Ok(meta) if meta.ino() != *inode => self.file = None,
                    _ => return Ok(None),
                }
                continue;
            }
            if let Ok(event) = read::json::<Happened>(&line) {
                return Ok(Some(self.with_image(event)));
            }
        }
    }

    /// Monitors know neither their container's image nor a name that it got later.
    fn with_image(&mut self, mut event: Happened) -> Happened {
        if event.kind != "container" {
            return event;
        }
        if !event.image.is_empty() {
            if self.known.len() < REMEMBERED {
                self.known
                    .insert(event.id.clone(), (event.name.clone(), event.image.clone()));
            }
            return event;
        }
        if let Some((name, image)) = self.known.get(&event.id) {
            (event.name, event.image) = (name.clone(), image.clone());
        } else if let Ok(view) = self.engine.inspect(&event.id) {
            event.image = view.record.image_name;
        }
        event
    }
}

fn open(path: &std::path::Path) -> io::Result<(BufReader<File>, u64)> {
    let file = File::open(path)?;
    let inode = file.metadata()?.ino();
    Ok((BufReader::new(file), inode))
}
