//! What containers wrote, read from their log files without asking anybody.
//!
//! The files are `log/0.log` (newest), `1.log`, … in the CRI text format, one entry a line:
//! `RFC3339NANO stdout|stderr F|P TEXT`; `P` is a piece of a line that goes on in the next entry of that stream.

use crate::disk::DiskError;
use crate::monitor::log::{Line, file_path};
use crate::types::bounds::LOG_FILES_MAX;
use crate::types::time::Unix;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Bytes of one entry at the most; what is longer is cut into entries.
const ENTRY_BYTES: usize = 64 << 10;

pub use crate::monitor::log::Stream;

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it was written, as in the file (RFC 3339 with nanoseconds).
    pub time: String,
    /// By which stream.
    pub stream: Stream,
    /// Whether the line ends here.
    pub whole: bool,
    /// What was written, without the newline.
    pub text: Vec<u8>,
}

impl Entry {
    fn parse(line: &[u8]) -> Option<Entry> {
        let line = Line::parse(line)?;
        Some(Entry {
            time: line.time.to_owned(),
            stream: line.stream,
            whole: !line.partial,
            text: line.text.to_vec(),
        })
    }

    /// When it was written, to the millisecond.
    pub fn at(&self) -> Option<Unix> {
        Unix::parse_rfc3339(&self.time)
    }
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Only entries at or after.
    pub since: Option<Unix>,
    /// Only entries at or before.
    pub until: Option<Unix>,
    /// Only so many of the last lines.
    pub tail: Option<usize>,
}

/// Reads a container's log files in order, across rotation.
pub struct LogReader {
    dir: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl LogReader {
    /// Begins with the oldest file in `dir`, which may not exist yet.
    pub fn open(dir: &Path) -> Result<LogReader, DiskError> {
        let mut oldest = None;
        for number in 0..LOG_FILES_MAX {
            match open_number(dir, number)? {
                Some(file) => oldest = Some(file),
                // In the middle of a rotation the newest is missing for a moment.
                None if number == 0 => {}
                None => break,
            }
        }
        Ok(LogReader {
            dir: dir.to_owned(),
            file: oldest,
            buffer: Vec::new(),
        })
    }

    /// The next entry that is there, `None` where there is none yet.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, DiskError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if let Some(entry) = Entry::parse(&line[..end]) {
                    return Ok(Some(entry));
                }
                continue;
            }
            if self.buffer.len() > ENTRY_BYTES {
                self.buffer.clear();
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Reads on, in the next newer file where this one ended for good; whether there was anything.
    fn fill(&mut self) -> Result<bool, DiskError> {
        let Some(file) = &mut self.file else {
            self.file = open_number(&self.dir, 0)?;
            return Ok(self.file.is_some());
        };
        if read_some(file, &mut self.buffer).map_err(DiskError::io("read log in", &self.dir))? > 0 {
            return Ok(true);
        }
        // With one file alone, rotation empties it in place.
        let (length, position) = (file.metadata().map(|meta| meta.len()), file.stream_position());
        if let (Ok(length), Ok(position)) = (length, position)
            && length < position
        {
            self.buffer.clear();
            file.seek(SeekFrom::Start(0))
                .map_err(DiskError::io("read log in", &self.dir))?;
            return Ok(length > 0);
        }
        // Which file is newer than ours? Ours may have moved since we looked, and may have grown before it did.
        let Some(newer) = self.newer()? else { return Ok(false) };
        if let Some(file) = &mut self.file
            && read_some(file, &mut self.buffer).map_err(DiskError::io("read log in", &self.dir))? > 0
        {
            return Ok(true);
        }
        self.buffer.clear();
        self.file = Some(newer);
        Ok(true)
    }

    fn newer(&self) -> Result<Option<File>, DiskError> {
        let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
        let Some(ours) = self.file.as_ref().and_then(|file| identity(file).ok()) else {
            return Ok(None);
        };
        let mut newer = None;
        for number in 0..LOG_FILES_MAX {
            let Some(file) = open_number(&self.dir, number)? else {
                if number == 0 {
                    continue;
                }
                break;
            };
            if identity(&file).ok() == Some(ours) {
                return Ok(newer);
            }
            newer = Some(file);
        }
        // Ours was rotated away altogether: the oldest that is left comes next.
        Ok(newer)
    }
}

/// The entries that are there now and fit `options`, and the reader to go on with.
pub fn read(dir: &Path, options: &LogOptions) -> Result<(Vec<Entry>, LogReader), DiskError> {
    let mut reader = LogReader::open(dir)?;
    let mut kept: VecDeque<Entry> = VecDeque::new();
    let mut lines = 0;
    while let Some(entry) = reader.next_entry()? {
        if !fits(&entry, options) {
            continue;
        }
        lines += usize::from(entry.whole);
        kept.push_back(entry);
        if let Some(tail) = options.tail {
            while lines > tail {
                if kept.pop_front().is_some_and(|entry| entry.whole) {
                    lines -= 1;
                }
            }
            if tail == 0 {
                kept.clear();
            }
        }
    }
    Ok((kept.into(), reader))
}

/// Whether an entry lies between `since` and `until`.
pub fn fits(entry: &Entry, options: &LogOptions) -> bool {
    if options.since.is_none() && options.until.is_none() {
        return true;
    }
    let Some(at) = entry.at() else { return false };
    options.since.is_none_or(|since| at >= since) && options.until.is_none_or(|until| at <= until)
}

fn open_number(dir: &Path, number: u32) -> Result<Option<File>, DiskError> {
    let path = file_path(dir, number);
    match File::open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DiskError::io("open log", &path)(error)),
    }
}

fn read_some(file: &mut File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; 16 << 10];
    let length = file.read(&mut piece)?;
    buffer.extend_from_slice(&piece[..length]);
    Ok(length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::io::Write as _;

    fn line(second: u32, text: &str) -> String {
        format!("2026-01-01T00:00:{second:02}.123456789Z stdout F {text}\n")
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("dunlin-logs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn texts(entries: &[Entry]) -> Vec<String> {
        entries
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.text).into_owned())
            .collect()
    }

    #[test]
    fn entries_are_read_in_order_and_bounded() {
        let dir = scratch("order");
        fs::write(dir.join("1.log"), line(1, "one") + &line(2, "two")).unwrap();
        fs::write(
            dir.join("0.log"),
            line(3, "three") + "garbage\n" + &line(4, "four") + "2026-01-01T00:00:05Z std",
        )
        .unwrap();
        let all = |options: &LogOptions| texts(&read(&dir, options).unwrap().0);
        assert_eq!(all(&LogOptions::default()), ["one", "two", "three", "four"]);
        assert_eq!(
            all(&LogOptions {
                tail: Some(2),
                ..LogOptions::default()
            }),
            ["three", "four"]
        );
        assert_eq!(
            all(&LogOptions {
                tail: Some(0),
                ..LogOptions::default()
            }),
            [""; 0]
        );
        let at = |second: u32| Unix::parse_rfc3339(&format!("2026-01-01T00:00:{second:02}Z"));
        assert_eq!(
            all(&LogOptions {
                since: at(3),
                ..LogOptions::default()
            }),
            ["three", "four"]
        );
        assert_eq!(
            all(&LogOptions {
                until: at(3),
                ..LogOptions::default()
            }),
            ["one", "two"]
        );
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_reader_follows_across_rotation() {
        let dir = scratch("follow");
        let mut reader = LogReader::open(&dir).unwrap();
        assert_eq!(reader.next_entry().unwrap(), None);
        let mut seen = Vec::new();
        let mut wanted = Vec::new();
        for round in 0..5u32 {
            let mut file = File::create(dir.join("0.log")).unwrap();
            for n in 0..3 {
                let text = format!("{round}.{n}");
                file.write_all(line(n, &text).as_bytes()).unwrap();
                wanted.push(text);
                if n == 1 {
                    while let Some(entry) = reader.next_entry().unwrap() {
                        seen.push(String::from_utf8(entry.text).unwrap());
                    }
                }
            }
            let _ = fs::rename(dir.join("1.log"), dir.join("2.log"));
            let _ = fs::rename(dir.join("0.log"), dir.join("1.log"));
        }
        while let Some(entry) = reader.next_entry().unwrap() {
            seen.push(String::from_utf8(entry.text).unwrap());
        }
        // Between two rotations 0.log is missing for a moment; the last file is found once a newer one exists.
        fs::write(dir.join("0.log"), line(9, "end")).unwrap();
        while let Some(entry) = reader.next_entry().unwrap() {
            seen.push(String::from_utf8(entry.text).unwrap());
        }
        wanted.push("end".to_owned());
        assert_eq!(seen, wanted);
        fs::remove_dir_all(&dir).unwrap();
    }
}
