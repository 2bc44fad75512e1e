//! The container's output on disk: CRI text format in a bounded number of bounded files.
//!
//! A line is `2026-11-21T22:00:00.123456789Z stdout F text`: time, stream, `F` for a full line or `P` for a part that the
//! next line of the same stream goes on with (kubernetes CRI logging). `0.log` is the newest file, `1.log` the one before
//! it. A disk that is full, or any other error, loses output and counts it; it never holds the container up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::types::bounds::{LOG_FILE_BYTES_MIN, LOG_FILES_MAX};
use crate::types::container::LogLimits;
use crate::types::time::Unix;

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and all of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    const fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Bytes that are gathered before they are written.
const BLOCK: usize = 8 << 10;
/// Bytes in front of a line's text: time, stream, tag, blanks; and the newline.
const HEAD: usize = 30 + 1 + 6 + 1 + 1 + 1 + 1;

/// Writes logs.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    limits: LogLimits,
    /// While this file is there, no log grows.
    full: PathBuf,
    file: Option<File>,
    size: u64,
    lost: u64,
    open_line: [bool; 2],
    block: Box<heapless::Vec<u8, BLOCK>>,
    /// Bytes of text in `block`.
    text: u64,
}

impl Writer {
    /// Goes on with the logs in `dir`, which is made when missing. Errors show when something is written.
    /// While there is a file at `full`, they do not grow: what is oldest goes sooner.
    pub fn new(dir: PathBuf, limits: LogLimits, full: PathBuf) -> Writer {
        let limits = LogLimits {
            file_bytes: limits.file_bytes.max(LOG_FILE_BYTES_MIN),
            files: limits.files.clamp(1, LOG_FILES_MAX),
        };
        let block = Box::default();
        Writer {
            dir,
            limits,
            full,
            file: None,
            size: 0,
            lost: 0,
            open_line: [false; 2],
            block,
            text: 0,
        }
    }

    /// Bytes of output that could not be written so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes what `stream` said at `now_ns` (nanoseconds since 1970).
    pub fn write(&mut self, stream: Stream, now_ns: u64, data: &[u8]) {
        let mut stamp = heapless::String::<32>::new();
        write_time(&mut stamp, now_ns);
        let mut rest = data;
        while !rest.is_empty() {
            let (line, full) = match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => (&rest[..end], true),
                None => (rest, false),
            };
            rest = &rest[(line.len() + usize::from(full)).min(rest.len())..];
            self.line(stream, &stamp, line, full);
        }
        self.flush();
    }

    /// Ends a line that was left open, since the stream has ended.
    pub fn end(&mut self, stream: Stream, now_ns: u64) {
        if self.open_line[stream as usize] {
            self.write(stream, now_ns, b"\n");
        }
    }

    fn line(&mut self, stream: Stream, stamp: &str, line: &[u8], full: bool) {
        let mut rest = line;
        loop {
            let room = BLOCK - self.block.len();
            if room < HEAD + rest.len().min(BLOCK / 4) {
                self.flush();
                continue;
            }
            let (part, left) = rest.split_at(rest.len().min(room - HEAD));
            let ends = full && left.is_empty();
            let tag: &[u8] = if ends { b" F " } else { b" P " };
            for piece in [stamp.as_bytes(), b" ", stream.word().as_bytes(), tag, part, b"\n"] {
                // The room was checked above.
                let _ = self.block.extend_from_slice(piece);
            }
            self.text += part.len() as u64 + u64::from(ends);
            self.open_line[stream as usize] = !ends;
            rest = left;
            if rest.is_empty() {
                return;
            }
        }
    }

    fn flush(&mut self) {
        if !self.block.is_empty() && self.put().is_err() {
            self.lost = self.lost.saturating_add(self.text);
            self.file = None;
        }
        self.block.clear();
        self.text = 0;
    }

    fn put(&mut self) -> io::Result<()> {
        let wanted = self.block.len() as u64;
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.open()?,
        };
        // Looked for only where another block of the smallest log begins.
        let full = || self.size / LOG_FILE_BYTES_MIN < (self.size + wanted) / LOG_FILE_BYTES_MIN && self.full.exists();
        if self.size > 0 && (self.size + wanted > self.limits.file_bytes || full()) {
            drop(file);
            self.rotate()?;
            file = self.open()?;
        }
        if let Err(error) = file.write_all(&self.block) {
            // No half line stays; shrinking works on a full disk.
            let _ = file.set_len(self.size);
            return Err(error);
        }
        self.size += wanted;
        self.file = Some(file);
        Ok(())
    }

    fn open(&mut self) -> io::Result<File> {
        let path = file_path(&self.dir, 0);
        let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new().mode(0o700).create(&self.dir)?;
                open()?
            }
            other => other?,
        };
        self.size = file.metadata()?.len();
        Ok(file)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let last = self.limits.files - 1;
        if last == 0 {
            return OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(file_path(&self.dir, 0))
                .map(drop);
        }
        for number in (0..last).rev() {
            match fs::rename(file_path(&self.dir, number), file_path(&self.dir, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The path of a log file; 0 is the newest.
pub fn file_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number}.log"))
}

/// The log files that exist, oldest first.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    (0..LOG_FILES_MAX)
        .rev()
        .map(|number| file_path(dir, number))
        .filter(|path| path.is_file())
        .collect()
}

/// Bytes of the longest line in a log file.
pub const LINE_BYTES: usize = BLOCK;

/// One line of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When, RFC 3339 with nanoseconds, as written.
    pub time: &'a str,
    /// Where from.
    pub stream: Stream,
    /// The next line of the same stream goes on with this one.
    pub partial: bool,
    /// What, without a newline.
    pub text: &'a [u8],
}

impl<'a> Line<'a> {
    /// From one line of a log file, without its newline; `None` when it is not one.
    pub fn parse(line: &'a [u8]) -> Option<Line<'a>> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?)
            .ok()
            .filter(|time| (20..=35).contains(&time.len()))?;
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let partial = match parts.next()? {
            b"F" => false,
            b"P" => true,
            _ => return None,
        };
        Some(Line {
            time,
            stream,
            partial,
            text: parts.next()?,
        })
    }
}

/// RFC 3339 in UTC with nine digits of a second.
fn write_time(to: &mut heapless::String<32>, now_ns: u64) {
    use std::fmt::Write as _;
    let (year, month, day, hour, minute, second) = Unix(now_ns / 1_000_000).civil();
    let nanos = now_ns % 1_000_000_000;
    // 30 bytes until the year 9999; u64 nanoseconds end in 2554.
    let _ = write!(
        to,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z"
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: u64 = 1_795_298_400_123_456_789;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("dunlin-log-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Dir(path)
        }

        fn text(&self, number: u32) -> String {
            fs::read_to_string(file_path(&self.0, number)).unwrap()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn writer(dir: &Dir, file_bytes: u64, files: u32) -> Writer {
        let full = dir.0.join("disk-is-full");
        Writer::new(dir.0.clone(), LogLimits { file_bytes, files }, full)
    }

    #[test]
    fn lines_have_time_stream_and_tag() {
        let dir = Dir::new("format");
        let mut log = writer(&dir, 1 << 20, 2);
        log.write(Stream::Stdout, NOW, b"one\ntwo");
        log.write(Stream::Stderr, NOW, b"err\n\n");
        log.write(Stream::Stdout, NOW + 1_000_000_000, b" more\n");
        log.write(Stream::Stderr, NOW, b"open");
        log.end(Stream::Stderr, NOW);
        log.end(Stream::Stdout, NOW);
        let t = "2026-11-21T22:00:00.123456789Z";
        let expected = format!(
            "{t} stdout F one\n{t} stdout P two\n{t} stderr F err\n{t} stderr F \n2026-11-21T22:00:01.123456789Z stdout F  more\n{t} stderr P open\n{t} stderr F \n"
        );
        assert_eq!(dir.text(0), expected);
        assert_eq!(log.lost(), 0);
    }

    #[test]
    fn what_is_parsed_is_what_was_written() {
        let dir = Dir::new("parse");
        let mut log = writer(&dir, 1 << 20, 2);
        let mut said: Vec<u8> = (0..30_000u32)
            .map(|n| if n % 9000 == 0 { b'\n' } else { (n % 251) as u8 })
            .collect();
        said.extend_from_slice(b"\xff\xfe no utf-8\n");
        for chunk in said.chunks(8192) {
            log.write(Stream::Stdout, NOW, chunk);
        }
        let mut back = Vec::new();
        let file = fs::read(file_path(&dir.0, 0)).unwrap();
        for line in file.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            assert!(line.len() < LINE_BYTES);
            let line = Line::parse(line).unwrap();
            assert_eq!(line.stream, Stream::Stdout);
            back.extend_from_slice(line.text);
            if !line.partial {
                back.push(b'\n');
            }
        }
        assert!(back == said);
        for bad in [
            "",
            "x",
            "2026 stdout F a",
            "2026-11-21T22:00:00Z out F a",
            "2026-11-21T22:00:00Z stdout X a",
        ] {
            assert_eq!(Line::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn files_are_bounded_and_rotate() {
        let dir = Dir::new("rotate");
        let mut log = writer(&dir, 1, 3);
        for n in 0..2000 {
            log.write(Stream::Stdout, NOW, format!("line {n:0100}\n").as_bytes());
        }
        let found = files(&dir.0);
        assert_eq!(found, [2, 1, 0].map(|n| file_path(&dir.0, n)));
        for path in &found {
            assert!(fs::metadata(path).unwrap().len() <= LOG_FILE_BYTES_MIN, "{path:?}");
        }
        assert!(dir.text(0).ends_with(&format!("line {:0100}\n", 1999)));
        let all: String = [2, 1, 0].map(|n| dir.text(n)).concat();
        let numbers: Vec<u32> = all
            .lines()
            .map(|line| line[line.len() - 6..].parse().unwrap())
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));

        let single = Dir::new("single");
        let mut log = writer(&single, 1, 1);
        for _ in 0..2000 {
            log.write(Stream::Stderr, NOW, &[b'x'; 100]);
        }
        assert_eq!(files(&single.0).len(), 1);
        assert!(fs::metadata(file_path(&single.0, 0)).unwrap().len() <= LOG_FILE_BYTES_MIN);
    }

    #[test]
    fn logs_do_not_grow_while_the_disk_is_at_its_reserve() {
        let dir = Dir::new("reserve");
        let mut log = writer(&dir, 1 << 20, 2);
        let mut say = |lines| (0..lines).for_each(|_| log.write(Stream::Stdout, NOW, &[b'x'; 999]));
        let size = || -> u64 { files(&dir.0).iter().map(|path| fs::metadata(path).unwrap().len()).sum() };
        say(300);
        let before = size();
        assert!(before > 300_000);
        fs::write(dir.0.join("disk-is-full"), "").unwrap();
        say(20);
        assert!(size() <= before + 2 * LOG_FILE_BYTES_MIN, "{before} {}", size());
        say(300);
        assert!(size() <= 2 * LOG_FILE_BYTES_MIN, "{}", size());
        fs::remove_file(dir.0.join("disk-is-full")).unwrap();
        say(300);
        assert!(size() > 300_000);
    }

    #[test]
    fn a_new_writer_goes_on_where_the_last_one_was() {
        let dir = Dir::new("again");
        writer(&dir, 1 << 20, 2).write(Stream::Stdout, NOW, b"a\n");
        writer(&dir, 1 << 20, 2).write(Stream::Stdout, NOW, b"b\n");
        assert_eq!(dir.text(0).lines().count(), 2);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_later_output_is_whole() {
        let dir = Dir::new("full");
        let mut log = writer(&dir, 1 << 20, 2);
        // A directory in the place of the file cannot be opened for writing, whoever we are.
        fs::create_dir(file_path(&dir.0, 0)).unwrap();
        log.write(Stream::Stdout, NOW, b"lost\nlost\n");
        assert_eq!(log.lost(), 10);
        fs::remove_dir(file_path(&dir.0, 0)).unwrap();
        log.write(Stream::Stdout, NOW, b"kept\n");
        assert_eq!((dir.text(0).lines().count(), log.lost()), (1, 10));
    }

    #[test]
    fn a_full_device_loses_output_and_nothing_else() {
        let dir = Dir::new("device");
        std::os::unix::fs::symlink("/dev/full", file_path(&dir.0, 0)).unwrap();
        let mut log = writer(&dir, 1 << 20, 2);
        log.write(Stream::Stdout, NOW, b"gone\n");
        assert_eq!(log.lost(), 5);
    }
}
