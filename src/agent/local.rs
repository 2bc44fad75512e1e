//! Local app documents: folders of `NAME.toml` files, a source of their own. One folder is the administrator's
//! (`/etc/dunlin/apps`), the other holds what `dunlin app apply` was given.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use super::daemon::Event;
use crate::config::agent::Settings;
use crate::disk::durable;
use crate::disk::layout::Layout;
use crate::sys::event;
use crate::types::app::{self, App};
use crate::types::bounds::{APP_FILE_BYTES, LOCAL_APPS};
use crate::types::read;

/// Changes in the folder of local apps settle for this long.
const SETTLE: Duration = Duration::from_millis(300);

/// Local documents that cannot be used; the apps that run are left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("local apps: {}", problems.join("; "))]
pub struct LocalError {
    /// Every mistake, each with its file.
    pub problems: Vec<String>,
}

/// The folders of local documents: the administrator's, and that of applied ones.
pub fn folders(settings: &Settings, layout: &Layout) -> [PathBuf; 2] {
    [settings.apps.dir.clone(), layout.agent().join("apps")]
}

/// Reads all documents of the folders, sorted by name. A folder that does not exist holds none. One mistake refuses
/// all: half a set might miss what the other half depends on.
pub fn read(folders: &[PathBuf]) -> Result<Vec<App>, LocalError> {
    let mut apps = Vec::new();
    let mut problems = Vec::new();
    for folder in folders {
        read_folder(folder, &mut apps, &mut problems);
    }
    finish(apps, problems)
}

/// The whole set, or every mistake in it.
pub fn finish(mut apps: Vec<App>, mut problems: Vec<String>) -> Result<Vec<App>, LocalError> {
    if apps.len() > LOCAL_APPS {
        problems.push(format!("{} documents, at most {LOCAL_APPS} are accepted", apps.len()));
    } else {
        apps.sort_by(|a, b| a.name.cmp(&b.name));
        problems.extend(app::set_problems(&apps, "apps", false).iter().map(ToString::to_string));
    }
    if problems.is_empty() {
        Ok(apps)
    } else {
        Err(LocalError { problems })
    }
}

fn read_folder(folder: &Path, apps: &mut Vec<App>, problems: &mut Vec<String>) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => return problems.push(format!("`{}`: {e}", folder.display())),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .filter(|p| p.file_name().is_some_and(|n| !n.to_string_lossy().starts_with('.')))
        .collect();
    files.sort();
    if files.len() > LOCAL_APPS {
        let text = format!("{} documents, at most {LOCAL_APPS} are accepted", files.len());
        return problems.push(format!("`{}`: {text}", folder.display()));
    }
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = match durable::read(file, APP_FILE_BYTES as u64) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        match read::toml::<App>(&text) {
            Ok(app) if format!("{}.toml", app.name) != name => {
                problems.push(format!(
                    "`{}`: the app's name is `{}`; name the file `{1}.toml`",
                    file.display(),
                    app.name
                ));
            }
            Ok(app) => apps.push(app),
            Err(error) => problems.push(format!(
                "`{}`: {}",
                file.display(),
                error.to_string().trim().replace('\n', " ")
            )),
        }
    }
}

/// Changes of folders, through inotify on a thread of its own; none are told of one that cannot be watched.
pub(super) fn watch(folders: &[PathBuf], events: &mpsc::Sender<Event>) {
    let Ok(watch) = event::Inotify::new() else {
        return;
    };
    let events = events.clone();
    let watched = folders.iter().filter(|folder| watch.watch(folder).is_ok());
    if watched.count() == 0 {
        return;
    }
    let wait = move || {
        loop {
            let mut readable = [event::Poll::new(Some(watch.as_fd()), event::Interest::READ)];
            if event::poll(&mut readable, None).is_err() || watch.drain().is_err() {
                return;
            }
            std::thread::sleep(SETTLE);
            if watch.drain().is_err() || events.blocking_send(Event::Reread).is_err() {
                return;
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("folder".into()).spawn(wait) {
        crate::warn!("changes of local apps are not noticed: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_whole_or_refused_with_every_mistake() {
        let dir = std::env::temp_dir().join(format!("dunlin-local-{}", std::process::id()));
        let other = dir.join("other");
        let read = |dir: &PathBuf| read(&[dir.clone(), other.clone()]);
        assert_eq!(read(&dir), Ok(Vec::new()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("web.toml"), "name='web'\nimage='r.example/web:1'").unwrap();
        fs::write(dir.join("notes.txt"), "ignored").unwrap();
        assert_eq!(read(&dir).unwrap().len(), 1);
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("db.toml"), "name='db'\nimage='r.example/db:1'").unwrap();
        assert_eq!(read(&dir).unwrap().len(), 2, "both folders");
        fs::write(other.join("web.toml"), "name='web'\nimage='r.example/web:2'").unwrap();
        assert!(read(&dir).unwrap_err().to_string().contains("`web` stands twice"));
        fs::remove_dir_all(&other).unwrap();
        fs::write(dir.join("bad.toml"), "name='bad'\nimage='r.example/x'\nnope=1").unwrap();
        fs::write(dir.join("other.toml"), "name='web2'\nimage='x'").unwrap();
        let error = read(&dir).unwrap_err();
        assert_eq!(error.problems.len(), 2, "{error}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_example_documents_are_accepted() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/apps");
        assert!(!read(&[folder]).unwrap().is_empty());
    }
}
