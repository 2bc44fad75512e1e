//! Reads tar archives that nobody vouches for: one pass, bounded memory, every length checked before it is used.
//!
//! Understood are V7, ustar, GNU and PAX headers: GNU long names and links, PAX records (path, linkpath, size, uid, gid,
//! mtime, extended attributes), base-256 numbers, and sparse files in the old GNU form and PAX forms 0.0, 0.1 and 1.0. Where
//! implementations disagree this one does what Go's `archive/tar` does, because that is what the tools that made and
//! checked an image used: two readings of one digest would be a hole.

mod header;
mod pax;
mod sparse;

use std::io::{self, Read};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::image::recipe::Recipe;
use crate::sys::fs::Time;
use crate::types::bounds;
use header::Header;
pub use header::{BLOCK, written};
pub use sparse::Segment;

/// What an entry asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; its bytes follow.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A hard link to an entry of this or of a lower layer.
    Link,
    /// A fifo.
    Fifo,
    /// A character or block device.
    Device,
}

/// One entry, without its bytes.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path as the archive says it: not yet cleaned.
    pub path: Vec<u8>,
    /// Target of a symbolic or hard link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner inside the container.
    pub uid: u32,
    /// Group inside the container.
    pub gid: u32,
    /// Size of the file once written, holes included; bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes in the archive's order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the stored bytes belong, for a sparse file; else they are the file.
    pub sparse: Option<Vec<Segment>>,
}

/// Why an archive cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TarError {
    /// The source failed.
    #[error("reading the archive at byte {at}: {cause}")]
    Read {
        /// Offset in the archive.
        at: u64,
        /// The system's text.
        cause: String,
    },
    /// The archive ends in the middle of something.
    #[error("the archive ends at byte {at}, in the middle of {what}")]
    Truncated {
        /// Offset in the archive.
        at: u64,
        /// What was being read.
        what: String,
    },
    /// A block that is no header.
    #[error("no tar header at byte {at}: {why}")]
    Header {
        /// Offset in the archive.
        at: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A number that is none, or is out of range.
    #[error("entry `{entry}`: {field} is not a number in range")]
    Number {
        /// The entry.
        entry: String,
        /// The field.
        field: String,
    },
    /// A type that image layers do not have.
    #[error("entry `{entry}`: type `{kind}` is not supported in an image layer")]
    Type {
        /// The entry.
        entry: String,
        /// The type flag.
        kind: char,
    },
    /// A malformed PAX record.
    #[error("PAX header at byte {at}: {why}")]
    Pax {
        /// Offset in the archive.
        at: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A sparse map that contradicts the file.
    #[error("entry `{entry}`: {why}")]
    Sparse {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// More than a bound allows.
    #[error("at byte {at}: {what} is {size} bytes long, at most {max} are allowed")]
    TooLong {
        /// Offset in the archive.
        at: u64,
        /// What is too long.
        what: String,
        /// Its size.
        size: u64,
        /// The bound.
        max: u64,
    },
    /// More bytes than the caller allows.
    #[error("the archive is longer than the {max} bytes allowed for it")]
    Endless {
        /// The bound, bytes.
        max: u64,
    },
}

/// An archive being read.
pub struct Archive<R> {
    input: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes taken so far.
    at: u64,
    /// Bytes of the archive that may be read at all.
    max: u64,
    /// Bytes of the current entry that are still to come.
    left: u64,
    /// Padding after them.
    padding: u64,
    over: bool,
    /// Gets everything that is not taken as a file's content.
    recipe: Option<Recipe>,
}

impl<R: Read> Archive<R> {
    /// Reads `input`, at most `max` bytes of it.
    pub fn new(input: R, max: u64) -> Archive<R> {
        let buffer = vec![0; bounds::TAR_BUFFER_BYTES].into_boxed_slice();
        Archive {
            input,
            buffer,
            start: 0,
            end: 0,
            at: 0,
            max,
            left: 0,
            padding: 0,
            over: false,
            recipe: None,
        }
    }

    /// From now on everything but what [`Archive::content`] gives goes to the recipe.
    pub fn keep_recipe(&mut self, recipe: Recipe) {
        self.recipe = Some(recipe);
    }

    /// Bytes taken so far.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Goes on with an archive of which `at` bytes were taken, with what [`Archive::rest`] said there.
    pub fn go_on(&mut self, at: u64, left: u64, padding: u64) {
        (self.at, self.left, self.padding) = (at, left, padding);
    }

    /// Bytes of the current entry that are still to come, and of the padding after them.
    pub fn rest(&self) -> (u64, u64) {
        (self.left, self.padding)
    }

    /// The next entry; what the last one left unread is skipped. After the end marker the rest is read and dropped, since
    /// the digest covers it.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = pax::Records::default();
        let mut long_name = None;
        let mut long_link = None;
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            match header.flag() {
                b'x' => pax = pax::parse(&self.special("a PAX header", bounds::TAR_PAX_BYTES)?, self.at)?,
                b'g' => drop(self.special("a global PAX header", bounds::TAR_PAX_BYTES)?),
                b'L' => {
                    long_name = Some(header::until_nul(&self.special("a long name", bounds::TAR_PAX_BYTES)?).to_vec())
                }
                b'K' => {
                    long_link = Some(header::until_nul(&self.special("a long link", bounds::TAR_PAX_BYTES)?).to_vec())
                }
                _ => return self.entry(&header, pax, long_name, long_link).map(Some),
            }
        }
    }

    /// Bytes of the current entry, at most `max`: at least one, or an empty slice at its end. The slice counts as taken.
    pub fn content(&mut self, max: u64) -> Result<&[u8], TarError> {
        let taken = self.take(max)?;
        Ok(&self.buffer[taken])
    }

    /// The same for bytes that are no content of a file in the tree.
    pub fn data(&mut self, max: u64) -> Result<&[u8], TarError> {
        let taken = self.take(max)?;
        self.note(taken.clone());
        Ok(&self.buffer[taken])
    }

    fn note(&self, taken: Range<usize>) {
        if let Some(recipe) = &self.recipe {
            recipe.borrow_mut().raw(&self.buffer[taken]);
        }
    }

    fn take(&mut self, max: u64) -> Result<Range<usize>, TarError> {
        if self.left == 0 || max == 0 {
            return Ok(0..0);
        }
        if self.start == self.end && self.fill()? == 0 {
            return Err(TarError::Truncated {
                at: self.at,
                what: "a file".to_owned(),
            });
        }
        let ready = self.end - self.start;
        let take = usize::try_from(self.left.min(max)).map_or(ready, |left| left.min(ready));
        let from = self.start;
        self.start += take;
        self.at += take as u64;
        self.left -= take as u64;
        Ok(from..from + take)
    }

    /// The next header that is not the end, with `left` and `padding` set for what follows it.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.over {
            return Ok(None);
        }
        self.skip_rest()?;
        let at = self.at;
        let mut block = [0; BLOCK];
        if !self.block(&mut block, "a header")? {
            self.over = true;
            return Ok(None);
        }
        if block == [0; BLOCK] {
            if self.block(&mut block, "the end marker")? && block != [0; BLOCK] {
                return Err(TarError::Header {
                    at,
                    why: "one empty block in front of more entries".to_owned(),
                });
            }
            self.over = true;
            self.drain()?;
            return Ok(None);
        }
        let header = Header::new(block, at)?;
        self.expect(header.size(at)?);
        Ok(Some(header))
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn entry(
        &mut self,
        header: &Header,
        mut pax: pax::Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let path = long_name.or(pax.path.take()).unwrap_or_else(|| header.path());
        let link = long_link.or(pax.link.take()).unwrap_or_else(|| header.link());
        let shown = shown(&path);
        let number = |field: &str| TarError::Number {
            entry: shown.clone(),
            field: field.to_owned(),
        };
        let flag = header.flag();
        let kind = match flag {
            0 if path.ends_with(b"/") => Kind::Dir,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::Link,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => {
                return Err(TarError::Type {
                    entry: shown,
                    kind: char::from(other),
                });
            }
        };
        // Only files are followed by bytes, whatever the size field of the others says.
        let stored = if kind == Kind::File {
            pax.size.unwrap_or(self.left)
        } else {
            0
        };
        if i64::try_from(stored).is_err() {
            return Err(number("size"));
        }
        self.expect(stored);
        let mut entry = Entry {
            path,
            link,
            kind,
            mode: header.mode().ok_or_else(|| number("mode"))? & 0o7777,
            uid: pax.uid.or_else(|| header.uid()).ok_or_else(|| number("uid"))?,
            gid: pax.gid.or_else(|| header.gid()).ok_or_else(|| number("gid"))?,
            size: stored,
            mtime: pax.mtime.or_else(|| header.mtime()).ok_or_else(|| number("mtime"))?,
            xattrs: std::mem::take(&mut pax.xattrs),
            sparse: None,
        };
        if kind == Kind::File {
            sparse::apply(self, header, &mut pax, &mut entry)?;
        }
        if !pax.bad.is_empty() {
            return Err(number(&pax.bad));
        }
        Ok(entry)
    }

    /// The body of a header that only describes the next one.
    fn special(&mut self, what: &str, max: usize) -> Result<Vec<u8>, TarError> {
        if self.left > max as u64 {
            return Err(TarError::TooLong {
                at: self.at,
                what: what.to_owned(),
                size: self.left,
                max: max as u64,
            });
        }
        let mut body = Vec::new();
        while self.left > 0 {
            let chunk = self.data(u64::MAX).map_err(|e| match e {
                TarError::Truncated { at, .. } => TarError::Truncated {
                    at,
                    what: what.to_owned(),
                },
                other => other,
            })?;
            body.extend_from_slice(chunk);
        }
        Ok(body)
    }

    /// One block; `false` at the end of the input.
    fn block(&mut self, block: &mut [u8; BLOCK], what: &str) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            if self.start == self.end && self.fill()? == 0 {
                if filled == 0 {
                    return Ok(false);
                }
                return Err(TarError::Truncated {
                    at: self.at,
                    what: what.to_owned(),
                });
            }
            let take = (BLOCK - filled).min(self.end - self.start);
            block[filled..filled + take].copy_from_slice(&self.buffer[self.start..self.start + take]);
            self.note(self.start..self.start + take);
            self.start += take;
            self.at += take as u64;
            filled += take;
        }
        Ok(true)
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        while !self.data(u64::MAX)?.is_empty() {}
        self.left = std::mem::take(&mut self.padding);
        // Go accepts an archive that ends within the padding of its last file; so do we, at the next header.
        while self.left > 0 {
            match self.data(u64::MAX) {
                Ok(_) => {}
                Err(TarError::Truncated { .. }) => self.left = 0,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), TarError> {
        loop {
            self.at += (self.end - self.start) as u64;
            self.note(self.start..self.end);
            self.start = self.end;
            if self.fill()? == 0 {
                return Ok(());
            }
        }
    }

    /// Reads more; 0 at the end of the input. The buffer must be used up.
    fn fill(&mut self) -> Result<usize, TarError> {
        if self.at > self.max {
            return Err(TarError::Endless { max: self.max });
        }
        let got = loop {
            match self.input.read(&mut self.buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Err(TarError::Read {
                        at: self.at,
                        cause: e.to_string(),
                    });
                }
                Ok(got) => break got,
            }
        };
        self.start = 0;
        self.end = got;
        if self.at + got as u64 > self.max {
            return Err(TarError::Endless { max: self.max });
        }
        Ok(got)
    }
}

/// A path as error texts show it: printable, at most 200 characters.
pub fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut shown: String = text.chars().flat_map(char::escape_debug).take(200).collect();
    if text.chars().count() > 200 {
        shown.push('…');
    }
    shown
}
