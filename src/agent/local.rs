//! Local app documents: a folder of `NAME.toml` files, a source of its own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::disk::durable;
use crate::types::app::{self, App};
use crate::types::bounds::{APP_FILE_BYTES, LOCAL_APPS};
use crate::types::read;

/// Local documents that cannot be used; the apps that run are left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("local apps in `{folder}`: {}", problems.join("; "))]
pub struct LocalError {
    /// The folder.
    pub folder: PathBuf,
    /// Every mistake, each with its file.
    pub problems: Vec<String>,
}

/// Reads all documents of a folder, sorted by name. A folder that does not exist holds none. One mistake refuses the
/// whole folder: half a set might miss what the other half depends on.
pub fn read(folder: &Path) -> Result<Vec<App>, LocalError> {
    let fail = |problems: Vec<String>| LocalError {
        folder: folder.to_owned(),
        problems,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail(vec![e.to_string()])),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .filter(|p| p.file_name().is_some_and(|n| !n.to_string_lossy().starts_with('.')))
        .collect();
    files.sort();
    if files.len() > LOCAL_APPS {
        return Err(fail(vec![format!(
            "{} documents, at most {LOCAL_APPS} are accepted",
            files.len()
        )]));
    }
    let mut apps = Vec::new();
    let mut problems = Vec::new();
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
                    "`{name}`: the app's name is `{}`; name the file `{0}.toml`",
                    app.name
                ));
            }
            Ok(app) => apps.push(app),
            Err(error) => problems.push(format!("`{name}`: {}", error.to_string().trim().replace('\n', " "))),
        }
    }
    problems.extend(app::set_problems(&apps, "apps", false).iter().map(ToString::to_string));
    if problems.is_empty() {
        Ok(apps)
    } else {
        Err(fail(problems))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_whole_or_refused_with_every_mistake() {
        let dir = std::env::temp_dir().join(format!("dunlin-local-{}", std::process::id()));
        assert_eq!(read(&dir), Ok(Vec::new()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("web.toml"), "name='web'\nimage='r.example/web:1'").unwrap();
        fs::write(dir.join("notes.txt"), "ignored").unwrap();
        assert_eq!(read(&dir).unwrap().len(), 1);
        fs::write(dir.join("bad.toml"), "name='bad'\nimage='r.example/x'\nnope=1").unwrap();
        fs::write(dir.join("other.toml"), "name='web2'\nimage='x'").unwrap();
        let error = read(&dir).unwrap_err();
        assert_eq!(error.problems.len(), 2, "{error}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_example_documents_are_accepted() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/apps");
        assert!(!read(&folder).unwrap().is_empty());
    }
}
