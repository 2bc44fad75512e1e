//! What happened: lines appended to a file of the run root, for `events`. Whoever does something appends; a line is one write, so
//! that lines of several processes do not mix. The file is bounded: the one before it is kept, older ones go.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::types::time::Unix;

/// Bytes of the file before the next one begins.
const FILE_BYTES: u64 = 1 << 20;
/// Bytes of a text in a line.
const TEXT_BYTES: usize = 256;

/// Something that happened.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// When.
    pub at: Unix,
    /// `container`, `image` or `volume`.
    pub kind: &'a str,
    /// podman's word: `create`, `start`, `died`, …
    pub what: &'a str,
    /// 64 hex digits, or a volume's name.
    pub id: &'a str,
    /// Name of the container, of the image, of the volume.
    pub name: &'a str,
    /// Image of a container; empty where whoever tells does not know it.
    pub image: &'a str,
    /// Exit code.
    pub code: Option<i32>,
}

impl Line<'_> {
    fn text(&self) -> String {
        let plain = |text: &str| -> String {
            let fits = |c: &char| !c.is_control() && !['"', '\\'].contains(c);
            text.chars().filter(fits).take(TEXT_BYTES).collect()
        };
        let mut text = format!(
            "{{\"at\":{},\"kind\":\"{}\",\"what\":\"{}\",\"id\":\"{}\",\"name\":\"{}\",\"image\":\"{}\"",
            self.at.0,
            plain(self.kind),
            plain(self.what),
            plain(self.id),
            plain(self.name),
            plain(self.image)
        );
        if let Some(code) = self.code {
            text.push_str(&format!(",\"code\":{code}"));
        }
        text.push_str("}\n");
        text
    }
}

/// Appends to a file that is there.
pub fn append(path: &Path, line: &Line) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .open(path)?
        .write_all(line.text().as_bytes())
}

/// Makes the file where it is missing, or begins the next one; whether it is new, so that it must be given to its owner.
pub fn prepare(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() < FILE_BYTES => return Ok(false),
        Ok(_) => fs::rename(path, path.with_extension("1"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    match OpenOptions::new().append(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(true),
        // Somebody else was sooner.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_json_and_files_are_bounded() {
        let dir = std::env::temp_dir().join(format!("dunlin-events-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("events");
        let line = Line {
            at: Unix(5),
            kind: "container",
            what: "died",
            id: "ab",
            name: "we\"b\n",
            image: "",
            code: Some(3),
        };
        assert!(append(&path, &line).is_err(), "nobody made it");
        assert!(prepare(&path).unwrap() && !prepare(&path).unwrap());
        append(&path, &line).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let value: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!((value["name"].as_str(), value["code"].as_i64()), (Some("web"), Some(3)));
        fs::write(&path, vec![b'x'; FILE_BYTES as usize]).unwrap();
        assert!(prepare(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        assert!(dir.join("events.1").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
