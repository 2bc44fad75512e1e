//! How a layer's archive is made again from its tree, byte for byte: the file `recipe` beside it.
//!
//! ```text
//! offset  bytes
//! 0       4      "DUNR"
//! 4       2      format (little endian), 1
//! 6       2      0
//! 8       …      frames: 1 byte of kind, 4 bytes of length (little endian), body
//! …       32     SHA-256 of everything before
//! ```
//!
//! | kind | body |
//! |---|---|
//! | 1 | a piece of the steps: one deflate stream after the other, a new one where the writing was gone on with |
//! | 2 | begins a file that the archive itself replaced: its inode then, and the number of [`Step::File`] before that (8 bytes each) |
//! | 3 | a piece of that file: its offset (8 bytes), then the bytes; what no piece has is zeros |
//! | 0 | the end: bytes of the archive (8) |
//!
//! Steps follow the archive: 1 a varint of length and the bytes themselves (headers, padding, whatever is not a file's content), 2 a file whose
//! content comes next (varint of the path's length, path below the root of the tree, varint of the inode), 3 a part of that file (varints of
//! offset and length), 0 the end. A file that stands in a frame of kind 2 with a larger number than its own is taken from there,
//! else from the tree. An empty file stands for a layer whose recipe would have been larger than is allowed for the layer.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, Write};
use std::os::unix::fs::FileExt as _;

use flate2::Compression;
use flate2::bufread::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::types::bounds;

const MAGIC: [u8; 8] = *b"DUNR\x01\0\0\0";
const END: u8 = 0;
const STEPS: u8 = 1;
const SAVED: u8 = 2;
const PIECE: u8 = 3;
const RAW: u8 = 1;
const FILE: u8 = 2;
const PART: u8 = 3;
/// Bytes of the last frame and the digest.
const TAIL_BYTES: u64 = 5 + 8 + 32;
/// Raw bytes that make one step, and bytes of one frame.
const CHUNK: usize = 64 << 10;
/// Replaced files and their pieces, together; their places are held in memory by whoever follows the recipe.
const PIECES: u32 = 64 << 10;
/// The block that ends a deflate stream: stored, empty, the last one (RFC 1951, 3.2.4).
const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];
/// Headers repeat each other: little effort is enough.
const LEVEL: Compression = Compression::new(2);

/// One step of a recipe.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// These bytes.
    Raw(Vec<u8>),
    /// What follows is content of this file.
    File {
        /// Its path below the root of the tree.
        path: Vec<u8>,
        /// The inode that it had when it was unpacked.
        inode: u64,
    },
    /// So many bytes of the file from this offset on.
    Part(u64, u64),
}

/// Writes a recipe. Errors show at the end; after one, and beyond the bound, nothing more is written.
pub struct RecipeWriter {
    steps: Option<DeflateEncoder<Frames>>,
    raw: Vec<u8>,
    files: u64,
    pieces: u32,
    total: u64,
    max: u64,
    failed: Option<io::Error>,
}

/// How far a recipe is, for going on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeMark {
    /// Bytes of the file that count.
    pub bytes: u64,
    files: u64,
    pieces: u32,
    total: u64,
}

struct Frames {
    out: File,
    hash: Sha256,
    bytes: u64,
}

impl RecipeWriter {
    /// Begins in an empty file.
    pub fn new(out: File) -> RecipeWriter {
        let mut frames = Frames {
            out,
            hash: Sha256::new(),
            bytes: 0,
        };
        let failed = frames.put(&MAGIC).err();
        RecipeWriter {
            steps: Some(DeflateEncoder::new(frames, LEVEL)),
            raw: Vec::new(),
            files: 0,
            pieces: 0,
            total: 0,
            max: u64::MAX,
            failed,
        }
    }

    /// Goes on with a file that was once so far, which is open for reading and writing; what came after the mark is dropped.
    pub fn go_on(mut out: File, mark: &RecipeMark) -> io::Result<RecipeWriter> {
        let bounded =
            mark.files <= bounds::LAYER_ENTRIES && mark.pieces <= PIECES && mark.total <= bounds::LAYER_BYTES * 2;
        if !bounded {
            return Err(damaged("its mark is out of bounds"));
        }
        let hash = hash_of(&out, mark.bytes)?;
        out.set_len(mark.bytes)?;
        out.seek(io::SeekFrom::Start(mark.bytes))?;
        let mut frames = Frames {
            out,
            hash,
            bytes: mark.bytes,
        };
        frames.frame(STEPS, &LAST_BLOCK)?;
        Ok(RecipeWriter {
            steps: Some(DeflateEncoder::new(frames, LEVEL)),
            raw: Vec::new(),
            files: mark.files,
            pieces: mark.pieces,
            total: mark.total,
            max: u64::MAX,
            failed: None,
        })
    }

    /// Writes everything so far, for [`RecipeWriter::go_on`]; `None` where it is given up.
    pub fn mark(&mut self) -> io::Result<Option<RecipeMark>> {
        self.flush();
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let Some(steps) = &mut self.steps else {
            return Ok(None);
        };
        // What follows belongs to the same stream: a new one for every mark would cost more than all its steps.
        steps.flush()?;
        Ok(Some(RecipeMark {
            bytes: steps.get_ref().bytes,
            files: self.files,
            pieces: self.pieces,
            total: self.total,
        }))
    }

    /// Bounds the file's bytes from now on.
    pub fn allow(&mut self, max: u64) {
        self.max = max;
    }

    /// Bytes of the archive that are not a file's content.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        for chunk in bytes.chunks(CHUNK) {
            if self.raw.len() + chunk.len() > CHUNK {
                self.flush();
            }
            self.raw.extend_from_slice(chunk);
        }
    }

    /// Content of this file comes next.
    pub fn file(&mut self, path: &[u8], inode: u64) {
        self.flush();
        self.files += 1;
        let mut step = vec![FILE];
        varint(&mut step, path.len() as u64);
        step.extend_from_slice(path);
        varint(&mut step, inode);
        self.step(&step);
    }

    /// This part of the file.
    pub fn part(&mut self, offset: u64, len: u64) {
        self.flush();
        self.total += len;
        let mut step = vec![PART];
        varint(&mut step, offset);
        varint(&mut step, len);
        self.step(&step);
    }

    /// Keeps the content of a file that is about to be removed; `next` gives its data from an offset on, as far as it is at hand,
    /// with where it begins.
    pub fn save(&mut self, inode: u64, next: &mut dyn FnMut(u64) -> io::Result<Option<(u64, Vec<u8>)>>) {
        let mut head = inode.to_le_bytes().to_vec();
        head.extend_from_slice(&self.files.to_le_bytes());
        self.pieces += 1;
        self.frame(SAVED, &head);
        let mut at = 0;
        while self.failed.is_none() && self.steps.is_some() {
            match next(at) {
                Ok(Some((offset, bytes))) => {
                    let mut body = offset.to_le_bytes().to_vec();
                    body.extend_from_slice(&bytes);
                    at = offset + bytes.len() as u64;
                    self.pieces += 1;
                    self.frame(PIECE, &body);
                }
                Ok(None) => return,
                Err(error) => self.failed = Some(error),
            }
        }
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.steps.as_ref().map_or(0, |steps| steps.get_ref().bytes)
    }

    /// Whether it is given up, because it became too large.
    pub fn is_over(&self) -> bool {
        self.steps.is_none()
    }

    /// Ends the file, empties it where it became too large; returns its bytes.
    pub fn finish(mut self) -> io::Result<u64> {
        self.flush();
        self.step(&[0]);
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Some(steps) = self.steps else { return Ok(0) };
        let mut frames = steps.finish()?;
        if frames.bytes + TAIL_BYTES > self.max {
            frames.out.set_len(0)?;
            return Ok(0);
        }
        frames.frame(END, &self.total.to_le_bytes())?;
        let digest = frames.hash.clone().finalize();
        frames.put(&digest)?;
        Ok(frames.bytes)
    }

    fn flush(&mut self) {
        if self.raw.is_empty() {
            return;
        }
        let mut step = vec![RAW];
        varint(&mut step, self.raw.len() as u64);
        self.step(&step);
        let raw = std::mem::take(&mut self.raw);
        self.step(&raw);
        self.raw = raw;
        self.raw.clear();
    }

    fn step(&mut self, bytes: &[u8]) {
        let Some(steps) = self.steps.as_mut().filter(|_| self.failed.is_none()) else {
            return;
        };
        self.failed = steps.write_all(bytes).err();
        self.bound();
    }

    fn frame(&mut self, kind: u8, body: &[u8]) {
        let Some(steps) = self.steps.as_mut().filter(|_| self.failed.is_none()) else {
            return;
        };
        self.failed = steps.get_mut().frame(kind, body).err();
        self.bound();
    }

    fn bound(&mut self) {
        if self.failed.is_none() && (self.bytes() + TAIL_BYTES > self.max || self.pieces > PIECES) {
            let emptied = self.steps.as_ref().map(|steps| steps.get_ref().out.set_len(0));
            self.failed = emptied.and_then(Result::err);
            // Its end would be written when it is dropped.
            if let Some(mut steps) = self.steps.take() {
                steps.get_mut().bytes = u64::MAX;
            }
        }
    }
}

impl Frames {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn frame(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        self.put(&[kind])?;
        self.put(&length.to_le_bytes())?;
        self.put(body)
    }
}

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Given up: nobody wants the rest.
        if self.bytes < u64::MAX {
            self.frame(STEPS, bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that the archive itself replaced: until which [`Step::File`] it was there, and where its pieces are: (offset in it, offset in the recipe, bytes).
#[derive(Debug, Default)]
pub struct Saved {
    before: u64,
    /// In order.
    pub pieces: Vec<(u64, u64, u64)>,
}

/// Reads a recipe.
pub struct RecipeReader {
    saved: HashMap<u64, Vec<Saved>>,
    steps: BufReader<Streams>,
    files: u64,
}

impl RecipeReader {
    /// Begins; `InvalidData` where it is no such file.
    pub fn new(file: File) -> io::Result<RecipeReader> {
        let total = archive_bytes(&file)?;
        total.ok_or_else(|| damaged("it is empty"))?;
        let mut saved: HashMap<u64, Vec<Saved>> = HashMap::new();
        let mut last = 0;
        let mut pieces = 0;
        let mut at = MAGIC.len() as u64;
        loop {
            let (kind, length) = frame_at(&file, at)?;
            let body = at + 5;
            match kind {
                END => break,
                STEPS => {}
                SAVED | PIECE if pieces == PIECES => return Err(damaged("it has too many frames")),
                SAVED => {
                    pieces += 1;
                    last = number_at(&file, body)?;
                    let before = number_at(&file, body + 8)?;
                    let pieces = Vec::new();
                    saved.entry(last).or_default().push(Saved { before, pieces });
                }
                PIECE if length >= 8 => {
                    pieces += 1;
                    let saved = saved.get_mut(&last).and_then(|all| all.last_mut());
                    let saved = saved.ok_or_else(|| damaged("a piece belongs to nothing"))?;
                    let (offset, bytes) = (number_at(&file, body)?, length - 8);
                    let before = saved.pieces.last().map_or(0, |(start, _, bytes)| start + bytes);
                    if offset < before || offset.checked_add(bytes).is_none() {
                        return Err(damaged("its pieces are not in order"));
                    }
                    saved.pieces.push((offset, body + 8, bytes));
                }
                _ => return Err(damaged("it has an unknown frame")),
            }
            at = body + length;
        }
        let pieces = Pieces {
            file,
            at: MAGIC.len() as u64,
            left: 0,
        };
        Ok(RecipeReader {
            saved,
            steps: BufReader::with_capacity(CHUNK, Streams(Some(decoder(BufReader::new(pieces))))),
            files: 0,
        })
    }

    /// The next step; `None` after the last one.
    pub fn next_step(&mut self) -> io::Result<Option<Step>> {
        Ok(Some(match self.byte()? {
            0 => return Ok(None),
            RAW => Step::Raw(self.take(CHUNK)?),
            FILE => {
                self.files += 1;
                Step::File {
                    path: self.take(bounds::PATH_BYTES)?,
                    inode: self.number()?,
                }
            }
            PART => {
                let (offset, len) = (self.number()?, self.number()?);
                offset.checked_add(len).ok_or_else(|| damaged("a part is too long"))?;
                Step::Part(offset, len)
            }
            _ => return Err(damaged("it has an unknown step")),
        }))
    }

    /// What the recipe itself has of the file with this inode, which the last [`Step::File`] named.
    pub fn saved(&self, inode: u64) -> Option<&Saved> {
        self.saved.get(&inode)?.iter().find(|one| one.before >= self.files)
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.steps.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(damaged("a number is too long"))
    }

    fn take(&mut self, max: usize) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if length > max {
            return Err(damaged("a step is too long"));
        }
        let mut bytes = vec![0; length];
        self.steps.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// Deflate streams, one after the other.
struct Streams(Option<DeflateDecoder<BufReader<Pieces>>>);

fn decoder(from: BufReader<Pieces>) -> DeflateDecoder<BufReader<Pieces>> {
    DeflateDecoder::new(from)
}

impl Read for Streams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(mut stream) = self.0.take() {
            let got = stream.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                self.0 = Some(stream);
                return Ok(got);
            }
            let mut rest = stream.into_inner();
            if !rest.fill_buf()?.is_empty() {
                self.0 = Some(decoder(rest));
            }
        }
        Ok(0)
    }
}

/// The frames of steps, one after the other.
struct Pieces {
    file: File,
    at: u64,
    left: u64,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let (kind, length) = frame_at(&self.file, self.at)?;
            match kind {
                END => return Ok(0),
                STEPS => {
                    self.at += 5;
                    self.left = length;
                }
                _ => self.at += 5 + length,
            }
        }
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}

/// Bytes of the archive that the recipe makes; `None` where it is empty. `InvalidData` where it is no recipe.
pub fn archive_bytes(file: &File) -> io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(None);
    }
    let mut magic = [0; MAGIC.len()];
    read_at(file, &mut magic, 0)?;
    let end = length
        .checked_sub(TAIL_BYTES)
        .filter(|end| magic == MAGIC && *end >= MAGIC.len() as u64)
        .ok_or_else(|| damaged("it does not begin as one"))?;
    if frame_at(file, end)? != (END, 8) {
        return Err(damaged("it is cut off"));
    }
    number_at(file, end + 5).map(Some)
}

/// Whether the file is as it was written: empty, or with its digest at the end.
pub fn verify(file: &File) -> io::Result<bool> {
    match archive_bytes(file) {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(true),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(false),
        Err(e) => return Err(e),
    }
    let end = file.metadata()?.len() - 32;
    let hash = hash_of(file, end)?;
    let mut digest = [0; 32];
    read_at(file, &mut digest, end)?;
    Ok(digest[..] == hash.finalize()[..])
}

/// Of the first bytes.
fn hash_of(file: &File, bytes: u64) -> io::Result<Sha256> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < bytes {
        let want = buffer.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
        read_at(file, &mut buffer[..want], at)?;
        hash.update(&buffer[..want]);
        at += want as u64;
    }
    Ok(hash)
}

fn frame_at(file: &File, at: u64) -> io::Result<(u8, u64)> {
    let mut head = [0; 5];
    read_at(file, &mut head, at)?;
    let [kind, a, b, c, d] = head;
    Ok((kind, u64::from(u32::from_le_bytes([a, b, c, d]))))
}

fn number_at(file: &File, at: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    read_at(file, &mut bytes, at)?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    file.read_exact_at(buffer, at).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
        _ => e,
    })
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> File {
        let path = std::env::temp_dir().join(format!("dunlin-recipe-{}-{name}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        std::fs::remove_file(&path).unwrap();
        file.unwrap()
    }

    #[test]
    fn what_was_written_is_read_and_any_damage_is_found() {
        let file = scratch("steps");
        let mut writer = RecipeWriter::new(file.try_clone().unwrap());
        let header: Vec<u8> = (0..200_000u32).map(|n| (n / 300) as u8).collect();
        writer.raw(&header);
        writer.file(b"a/b", 77);
        writer.part(0, 1000);
        writer.save(77, &mut |at| Ok((at == 0).then(|| (10, b"replaced".to_vec()))));
        writer.file(b"a/b", 77);
        writer.part(u64::MAX >> 1, 5);
        writer.raw(b"end");
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes, file.metadata().unwrap().len());
        assert!(bytes < 2000, "{bytes}");
        assert_eq!(archive_bytes(&file).unwrap(), Some(200_000 + 1000 + 5 + 3));
        let mut reader = RecipeReader::new(file.try_clone().unwrap()).unwrap();
        let mut raw = Vec::new();
        let step = loop {
            match reader.next_step().unwrap() {
                Some(Step::Raw(bytes)) => raw.extend(bytes),
                other => break other,
            }
        };
        assert!(raw == header);
        let named = Some(Step::File {
            path: b"a/b".to_vec(),
            inode: 77,
        });
        assert_eq!(step, named);
        let pieces = reader.saved(77).map(|saved| saved.pieces.clone()).unwrap();
        assert_eq!((pieces.len(), pieces[0].0, pieces[0].2), (1, 10, 8));
        assert_eq!(reader.next_step().unwrap(), Some(Step::Part(0, 1000)));
        assert_eq!(reader.next_step().unwrap(), named);
        assert!(reader.saved(77).is_none());
        assert_eq!(reader.next_step().unwrap(), Some(Step::Part(u64::MAX >> 1, 5)));
        assert_eq!(reader.next_step().unwrap(), Some(Step::Raw(b"end".to_vec())));
        assert_eq!(reader.next_step().unwrap(), None);
        assert!(verify(&file).unwrap());
        for at in 0..bytes {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            assert!(!verify(&file).unwrap(), "byte {at}");
            file.write_all_at(&byte, at).unwrap();
        }
        file.set_len(bytes - 1).unwrap();
        assert!(!verify(&file).unwrap());
    }

    #[test]
    fn writing_is_gone_on_with_from_a_mark() {
        let text = |n: u32| format!("header {n} ").repeat(100);
        let write = |writer: &mut RecipeWriter, n: u32| {
            writer.raw(text(n).as_bytes());
            writer.file(format!("f{n}").as_bytes(), n.into());
            writer.part(0, n.into());
        };
        let file = scratch("marks");
        let mut writer = RecipeWriter::new(file.try_clone().unwrap());
        write(&mut writer, 1);
        writer.save(1, &mut |at| Ok((at == 0).then(|| (0, b"1".to_vec()))));
        let mark = writer.mark().unwrap().unwrap();
        // What comes after the mark is lost with its writer, twice.
        write(&mut writer, 7);
        drop(writer);
        let mut writer = RecipeWriter::go_on(file.try_clone().unwrap(), &mark).unwrap();
        write(&mut writer, 8);
        drop(writer);
        let mut writer = RecipeWriter::go_on(file.try_clone().unwrap(), &mark).unwrap();
        write(&mut writer, 2);
        writer.mark().unwrap();
        write(&mut writer, 3);
        writer.finish().unwrap();
        assert!(verify(&file).unwrap());
        let total = (1..=3).map(|n| text(n).len() as u64 + u64::from(n)).sum();
        assert_eq!(archive_bytes(&file).unwrap(), Some(total));
        let mut reader = RecipeReader::new(file.try_clone().unwrap()).unwrap();
        for n in 1..=3 {
            assert_eq!(reader.next_step().unwrap(), Some(Step::Raw(text(n).into_bytes())));
            let path = format!("f{n}").into_bytes();
            let inode = n.into();
            assert_eq!(reader.next_step().unwrap(), Some(Step::File { path, inode }));
            assert_eq!(reader.saved(inode).is_some(), n == 1);
            assert_eq!(reader.next_step().unwrap(), Some(Step::Part(0, n.into())));
        }
        assert_eq!(reader.next_step().unwrap(), None);
        file.set_len(mark.bytes - 1).unwrap();
        assert!(RecipeWriter::go_on(file, &mark).is_err());
    }

    #[test]
    fn one_that_becomes_too_large_is_empty() {
        let file = scratch("large");
        let mut writer = RecipeWriter::new(file.try_clone().unwrap());
        writer.allow(1 << 20);
        let mut seed = 1u64;
        for _ in 0..100 {
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .take(50_000)
            .collect();
            writer.raw(&noise);
        }
        assert!(writer.is_over());
        assert_eq!(writer.finish().unwrap(), 0);
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert!(verify(&file).unwrap());
    }
}
