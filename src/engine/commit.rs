//! Images that are made here: `import` and `commit`.

use super::pull::{Reach, runtime};
use super::view::ContainerView;
use super::{Engine, EngineError, change, images, now};
use crate::image::load;
use crate::image::make::{self, MakeError, NewArchive};
use crate::image::pull::Progress;
use crate::image::worker::Workers;
use crate::registry::Client;
use crate::store::ImageRecord;
use crate::types::container::{ContainerSpec, Status};
use crate::types::platform::Platform;
use crate::types::read;
use hyper::body::Bytes;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is said about a new image.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// Who made it.
    pub author: Option<String>,
    /// Why.
    pub message: Option<String>,
    /// `CMD …`, `ENV …` and their like.
    pub changes: Vec<String>,
}

impl Engine {
    /// Makes an image of an archive of files, which may be compressed or come through a pipe; `source` is where it comes from.
    pub fn import(
        &self,
        input: File,
        name: Option<&str>,
        platform: Option<Platform>,
        words: &Words,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ImageRecord, EngineError> {
        let platform = platform.unwrap_or_else(Platform::host);
        let mut config = json!({"architecture": platform.architecture, "os": platform.os, "config": {}});
        if !platform.variant.is_empty() {
            config["variant"] = platform.variant.into();
        }
        say(&mut config, words, "")?;
        let workers: Arc<dyn Workers> = Arc::new(self.workers()?);
        self.sweep_store(&*workers, false)?;
        let options = self.plain_options(&Reach::default());
        let archive = NewArchive::read(self.store(), &options, input)?;
        self.put_together(&workers, None, archive, config, name, progress)
    }

    /// An archive from a web server, in a file without a name.
    pub fn download(&self, url: &str) -> Result<File, EngineError> {
        let failed = |source| EngineError::io("make a pipe for", Path::new(url))(source);
        let client = Client::new(self.reaching("", &Reach::default())?);
        let runtime = runtime()?;
        let options = self.plain_options(&Reach::default());
        let (pipe, mut writer) = io::pipe().map_err(failed)?;
        let (spooled, done) = std::thread::scope(|scope| {
            let download = scope.spawn(move || {
                let take = &mut |bytes: Bytes| writer.write_all(&bytes).is_ok();
                runtime.block_on(client.download(url, take))
            });
            let spooled = load::spool(self.store(), &options, File::from(OwnedFd::from(pipe)));
            (spooled, download.join())
        });
        match done {
            // What came of it is not the whole.
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(failed(io::ErrorKind::Other.into())),
            Ok(Ok(())) => Ok(spooled?),
        }
    }

    /// Makes an image of what a container has now; `pause` stops it meanwhile, so that no file is half written.
    pub fn commit(
        &self,
        typed: &str,
        name: Option<&str>,
        words: &Words,
        pause: bool,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ImageRecord, EngineError> {
        let view = self.inspect(typed)?;
        let (base, upper) = self.upper(&view)?;
        let record = view.record;
        let damaged = |_| MakeError::Config { image: base.id };
        let mut config: Value = read::json_any(&self.image_config(&base)?).map_err(damaged)?;
        as_it_runs(&mut config, &record.spec);
        say(&mut config, words, &record.spec.args.join(" "))?;
        let workers: Arc<dyn Workers> = Arc::new(self.workers()?);
        self.sweep_store(&*workers, false)?;
        let options = self.plain_options(&Reach::default());
        let paused = pause && view.status == Status::Running;
        if paused && let Err(error) = self.pause(typed) {
            crate::warn!("`{}` goes on while it is read: {error}", record.name);
        }
        let archive = NewArchive::of_changes(self.store(), &*workers, &options, &upper);
        if paused {
            // It was told above where that failed.
            let _ = self.unpause(typed);
        }
        let made = self.put_together(&workers, Some(&base), archive?, config, name, progress)?;
        self.tell_of(&record, "commit");
        Ok(made)
    }

    /// A container's image, and the folder with what it changed of that.
    pub(super) fn upper(&self, view: &ContainerView) -> Result<(ImageRecord, PathBuf), EngineError> {
        let record = &view.record;
        let folder = self.layout().container(&record.id);
        if folder.join("flat").exists() {
            return Err(EngineError::State {
                name: record.name.clone(),
                status: view.status,
                reason: "it is a copy of its image, since this kernel has no overlay for users: what it changed is not known",
            });
        }
        let base = self.image_by_id(&record.image)?.ok_or_else(|| EngineError::ImageGone {
            image: record.image_name.clone(),
            container: record.name.clone(),
        })?;
        Ok((base, folder.join("upper")))
    }

    fn put_together(
        &self,
        workers: &Arc<dyn Workers>,
        base: Option<&ImageRecord>,
        archive: NewArchive,
        config: Value,
        name: Option<&str>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ImageRecord, EngineError> {
        let name = name.map(images::new_name).transpose()?;
        let options = self.plain_options(&Reach::default());
        let whole = make::Whole { base, archive, config };
        let made = make::make(self.store(), workers, whole, name.as_ref(), &options, progress);
        Ok(runtime()?.block_on(made)?)
    }
}

/// Command, environment and the like of a container become those of its image.
fn as_it_runs(config: &mut Value, spec: &ContainerSpec) {
    let config = &mut config["config"];
    if !config.is_object() {
        *config = json!({});
    }
    let entrypoint: Vec<String> = serde_json::from_value(config["Entrypoint"].clone()).unwrap_or_default();
    match spec.args.strip_prefix(&entrypoint[..]) {
        Some(rest) => config["Cmd"] = json!(rest),
        None => {
            config["Entrypoint"] = Value::Null;
            config["Cmd"] = json!(spec.args);
        }
    }
    config["Env"] = json!(spec.env);
    config["User"] = json!(spec.user);
    config["WorkingDir"] = json!(spec.workdir);
    config["Labels"] = json!(spec.labels);
    if let Value::Object(config) = config {
        config.retain(|_, value| !value.is_null());
    }
}

/// When, who, why and how, and the changes.
fn say(config: &mut Value, words: &Words, created_by: &str) -> Result<(), EngineError> {
    for instruction in &words.changes {
        change::apply(&mut config["config"], instruction).map_err(EngineError::Change)?;
    }
    let created = now().rfc3339();
    config["created"] = json!(created);
    let mut step = json!({"created": created, "created_by": created_by});
    if let Some(author) = &words.author {
        config["author"] = json!(author);
        step["author"] = json!(author);
    }
    if let Some(message) = &words.message {
        step["comment"] = json!(message);
    }
    let mut history = config["history"].as_array().cloned().unwrap_or_default();
    history.push(step);
    config["history"] = Value::Array(history);
    Ok(())
}
