//! Where the files of an image go that leaves for no registry: a folder, or one archive.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};

use super::tar::{self, BLOCK};
use crate::types::bounds;
use crate::types::digest::Digest;

/// How hard layers are compressed: gzip's usual.
pub const LEVEL: u32 = 6;
const CHUNK: usize = 64 << 10;

/// A folder or an archive being filled. Names are written once: what is there already stays.
#[derive(Debug)]
pub struct Sink {
    path: PathBuf,
    archive: Option<Output>,
    names: BTreeSet<String>,
}

#[derive(Debug)]
struct Output {
    out: File,
    /// Whether headers can be completed later.
    seekable: bool,
}

/// Opens what is to be packed, from its beginning.
pub type Again<'a> = &'a mut dyn FnMut() -> io::Result<Packed>;

impl Sink {
    /// A folder, which is made where it is missing.
    pub fn folder(path: &Path) -> io::Result<Sink> {
        std::fs::create_dir_all(path).map_err(|e| told(path, &e))?;
        Ok(Sink {
            path: path.to_owned(),
            archive: None,
            names: BTreeSet::new(),
        })
    }

    /// An archive; `path` is what it is called.
    pub fn archive(path: &Path, mut out: File) -> Sink {
        let regular = out.metadata().is_ok_and(|meta| meta.is_file());
        let seekable = regular && out.stream_position().is_ok_and(|at| at == 0);
        Sink {
            path: path.to_owned(),
            archive: Some(Output { out, seekable }),
            names: BTreeSet::new(),
        }
    }

    /// Whether this name was written.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Writes a small file.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.stream(name, bytes.len() as u64, &mut &*bytes)
    }

    /// Writes a file of this length.
    pub fn stream(&mut self, name: &str, length: u64, from: &mut dyn Read) -> io::Result<()> {
        if !self.names.insert(name.to_owned()) {
            return Ok(());
        }
        match &mut self.archive {
            None => {
                let part = self.path.join(format!("{name}.part"));
                let mut out = create(&part)?;
                exactly(length, pump(from, &mut out, &part)?)?;
                let place = self.path.join(name);
                std::fs::rename(&part, &place).map_err(|e| told(&place, &e))
            }
            Some(output) => {
                let told = |e: io::Error| told(&self.path, &e);
                output.out.write_all(&header(name, length)).map_err(told)?;
                exactly(length, pump(from, &mut output.out, &self.path)?)?;
                output.out.write_all(&padding(length)).map_err(told)
            }
        }
    }

    /// Writes a file of unknown length, and calls it by its digest; returns that and its length. Where an archive cannot be changed
    /// later, it is read twice.
    pub fn packed(&mut self, name: &dyn Fn(&Digest) -> String, again: Again) -> io::Result<(Digest, u64)> {
        let Some(output) = &mut self.archive else {
            let part = self.path.join("layer.part");
            let mut out = create(&part)?;
            let (digest, length) = settle(again()?, &mut out, &part)?;
            let place = self.path.join(name(&digest));
            if let Some(parent) = place.parent() {
                std::fs::create_dir_all(parent).map_err(|e| told(parent, &e))?;
            }
            std::fs::rename(&part, &place).map_err(|e| told(&place, &e))?;
            self.names.insert(name(&digest));
            return Ok((digest, length));
        };
        let told = |e: io::Error| told(&self.path, &e);
        if !output.seekable {
            let (digest, length) = settle(again()?, &mut io::sink(), &self.path)?;
            if self.names.insert(name(&digest)) {
                output.out.write_all(&header(&name(&digest), length)).map_err(told)?;
                exactly(length, settle(again()?, &mut output.out, &self.path)?.1)?;
                output.out.write_all(&padding(length)).map_err(told)?;
            }
            return Ok((digest, length));
        }
        let start = output.out.stream_position().map_err(told)?;
        output.out.write_all(&[0; BLOCK]).map_err(told)?;
        let (digest, length) = settle(again()?, &mut output.out, &self.path)?;
        let mut end = start;
        if self.names.insert(name(&digest)) {
            output.out.write_all(&padding(length)).map_err(told)?;
            end = output.out.stream_position().map_err(told)?;
            output.out.seek(SeekFrom::Start(start)).map_err(told)?;
            output.out.write_all(&header(&name(&digest), length)).map_err(told)?;
        }
        output.out.seek(SeekFrom::Start(end)).map_err(told)?;
        Ok((digest, length))
    }

    /// Ends an archive.
    pub fn finish(self) -> io::Result<()> {
        let Some(mut output) = self.archive else { return Ok(()) };
        let told = |e: io::Error| told(&self.path, &e);
        output.out.write_all(&[0; 2 * BLOCK]).map_err(told)?;
        if output.seekable {
            let end = output.out.stream_position().map_err(told)?;
            output.out.set_len(end).map_err(told)?;
        }
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| told(parent, &e))?;
    }
    File::create(path).map_err(|e| told(path, &e))
}

fn told(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write `{}`: {error}", path.display()))
}

/// A blob with other bytes than its digest says.
pub(super) fn damaged(digest: &Digest) -> io::Error {
    io::Error::other(format!("blob `{digest}` has other bytes than its digest says"))
}

fn exactly(want: u64, have: u64) -> io::Result<()> {
    if want == have {
        return Ok(());
    }
    Err(io::Error::other(format!("{have} bytes came instead of {want}")))
}

fn pump(from: &mut dyn Read, out: &mut dyn io::Write, path: &Path) -> io::Result<u64> {
    let mut buffer = vec![0; bounds::TAR_BUFFER_BYTES];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(got) => {
                out.write_all(&buffer[..got]).map_err(|e| told(path, &e))?;
                total += got as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn settle(mut packed: Packed, out: &mut dyn io::Write, path: &Path) -> io::Result<(Digest, u64)> {
    let length = pump(&mut packed, out, path)?;
    Ok((packed.digest(), length))
}

/// Bytes with their digest.
pub struct Packed {
    from: Box<dyn Read + Send>,
    hash: Sha256,
    want: Option<Digest>,
}

impl Packed {
    /// Compresses what is read from there: the same for the same archive, always.
    pub fn gzip(from: impl Read + Send + 'static) -> Packed {
        Packed::gzip_at(from, LEVEL)
    }

    /// The same at another level, 1 to 9.
    pub fn gzip_at(from: impl Read + Send + 'static, level: u32) -> Packed {
        let builder = GzBuilder::new().mtime(0).operating_system(255);
        Packed::plain(Gzip {
            from,
            gzip: Some(builder.write(Vec::new(), Compression::new(level))),
            chunk: vec![0; CHUNK],
            ready: Vec::new(),
            at: 0,
        })
    }

    /// As they are.
    pub fn plain(from: impl Read + Send + 'static) -> Packed {
        Packed {
            from: Box::new(from),
            hash: Sha256::new(),
            want: None,
        }
    }

    /// As they are; they only end where this is their digest.
    pub fn checked(from: impl Read + Send + 'static, want: Digest) -> Packed {
        Packed {
            want: Some(want),
            ..Packed::plain(from)
        }
    }

    /// Of what was read so far.
    pub fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }
}

/// Compresses in steps of a fixed length: what comes out depends on how much goes in at once.
struct Gzip<R> {
    from: R,
    gzip: Option<GzEncoder<Vec<u8>>>,
    chunk: Vec<u8>,
    ready: Vec<u8>,
    at: usize,
}

impl<R: Read> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() {
            let Some(mut gzip) = self.gzip.take() else { return Ok(0) };
            let mut filled = 0;
            while filled < CHUNK {
                match self.from.read(&mut self.chunk[filled..]) {
                    Ok(0) => break,
                    Ok(got) => filled += got,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            self.at = 0;
            if filled == 0 {
                self.ready = gzip.finish()?;
                continue;
            }
            gzip.write_all(&self.chunk[..filled])?;
            self.ready.clear();
            std::mem::swap(&mut self.ready, gzip.get_mut());
            self.gzip = Some(gzip);
        }
        let take = buffer.len().min(self.ready.len() - self.at);
        buffer[..take].copy_from_slice(&self.ready[self.at..self.at + take]);
        self.at += take;
        Ok(take)
    }
}

impl Read for Packed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        self.hash.update(&buffer[..got]);
        match self.want {
            Some(want) if got == 0 && !buffer.is_empty() && self.digest() != want => Err(damaged(&want)),
            _ => Ok(got),
        }
    }
}

/// A file as a member of an archive, in pieces.
pub fn member<'a>(name: &str, content: &'a [u8]) -> [Cow<'a, [u8]>; 3] {
    let length = content.len() as u64;
    [
        header(name, length).to_vec().into(),
        content.into(),
        padding(length).into(),
    ]
}

/// A header of a file without an owner and a time.
fn header(name: &str, length: u64) -> [u8; BLOCK] {
    tar::written(name.as_bytes(), b"", b'0', 0o644, (0, 0), length, 0)
}

fn padding(length: u64) -> Vec<u8> {
    vec![0; (length.wrapping_neg() % BLOCK as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what it has in pieces of odd lengths.
    struct Drops(Vec<u8>, usize);

    impl Read for Drops {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = self.1 * 7 % 30_011 + 1;
            let take = self.1.min(buffer.len()).min(self.0.len());
            buffer[..take].copy_from_slice(&self.0[..take]);
            self.0.drain(..take);
            Ok(take)
        }
    }

    #[test]
    fn the_same_bytes_are_compressed_to_the_same_bytes_however_they_come() {
        let data: Vec<u8> = (0..700_000u32)
            .map(|n| ((n / 3).wrapping_mul(2_654_435_761) >> 27) as u8)
            .collect();
        let mut all = Vec::new();
        for (start, step) in [(1, 1 << 20), (5, 1000), (77, 65_536), (30_000, 7)] {
            let mut packed = Packed::gzip(Drops(data.clone(), start));
            let mut out = Vec::new();
            let mut buffer = vec![0; step];
            loop {
                match packed.read(&mut buffer).unwrap() {
                    0 => break,
                    got => out.extend_from_slice(&buffer[..got]),
                }
            }
            assert_eq!(packed.digest(), Digest::of(&out));
            all.push(out);
        }
        assert!(all.iter().all(|one| *one == all[0]));
        let mut back = Vec::new();
        flate2::read::MultiGzDecoder::new(&all[0][..])
            .read_to_end(&mut back)
            .unwrap();
        assert!(back == data);
    }
}
