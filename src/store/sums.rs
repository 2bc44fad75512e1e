//! What a layer's tree must look like, entry by entry: the file `sums` beside it.
//!
//! ```text
//! offset  bytes
//! 0       4      "DUNS"
//! 4       2      format (little endian), 1
//! 6       2      0
//! 8       …      entries: 2 bytes of length (little endian), then a [`Sum`] in postcard
//! …       2      0: there are no more
//! …       32     SHA-256 of everything before
//! ```
//!
//! Entries stand in the order of a walk: the root first, what is in a directory right after it, names in the order of their
//! bytes. So a tree is compared while it is walked, without holding either side in memory. Owners are those inside the
//! store's user namespace.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::types::bounds;
use crate::types::digest::Digest;

const MAGIC: [u8; 8] = *b"DUNS\x01\0\0\0";
/// Bytes of one entry: a name, a digest and small numbers.
const ENTRY_BYTES: usize = 512;

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// 0 for the root, 1 for what is in it; the entry is in the last one before it that is one less deep.
    pub depth: u16,
    /// Last component of its path; empty for the root.
    pub name: Vec<u8>,
    /// Type and content.
    pub what: What,
    /// Permission bits (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// First bytes of the SHA-256 over its extended attributes that images have; `None` when there are none.
    pub xattrs: Option<[u8; 16]>,
}

/// Type and content of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A directory.
    Dir,
    /// A regular file: bytes, and their SHA-256.
    File(u64, Digest),
    /// A regular file that may have holes: bytes, and the SHA-256 over every block of 4 KiB that is not all zeros, each after
    /// its offset (8 bytes, little endian).
    Blocks(u64, Digest),
    /// A symbolic link: SHA-256 of its target.
    Symlink(Digest),
    /// A fifo.
    Fifo,
    /// A character device 0:0, which hides a name of lower layers.
    Whiteout,
    /// Something that layers do not have.
    Foreign,
}

/// Writes a file of sums.
pub struct SumsWriter<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> SumsWriter<W> {
    /// Begins.
    pub fn new(out: W) -> io::Result<SumsWriter<W>> {
        let mut writer = SumsWriter {
            out,
            hash: Sha256::new(),
            bytes: 0,
        };
        writer.put(&MAGIC)?;
        Ok(writer)
    }

    /// One more entry.
    pub fn add(&mut self, sum: &Sum) -> io::Result<()> {
        let body = postcard::to_allocvec(sum).map_err(io::Error::other)?;
        let length = u16::try_from(body.len())
            .ok()
            .filter(|n| usize::from(*n) <= ENTRY_BYTES);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        self.put(&length.to_le_bytes())?;
        self.put(&body)
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the file; returns its bytes.
    pub fn finish(mut self) -> io::Result<u64> {
        self.put(&[0; 2])?;
        let digest = self.hash.clone().finalize();
        self.put(&digest)?;
        self.out.flush()?;
        Ok(self.bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// Reads a file of sums. Its digest is only known to fit once the last entry was read.
pub struct SumsReader<R> {
    input: R,
    hash: Sha256,
    over: bool,
    left: u64,
}

impl<R: Read> SumsReader<R> {
    /// Begins; `InvalidData` where it is no such file.
    pub fn new(input: R) -> io::Result<SumsReader<R>> {
        let mut reader = SumsReader {
            input,
            hash: Sha256::new(),
            over: false,
            left: bounds::SUMS_BYTES,
        };
        let mut magic = [0; MAGIC.len()];
        reader.take(&mut magic)?;
        if magic != MAGIC {
            return Err(damaged("it does not begin as one"));
        }
        Ok(reader)
    }

    /// The next entry; `None` after the last one, when the digest fits.
    pub fn next_sum(&mut self) -> io::Result<Option<Sum>> {
        if self.over {
            return Ok(None);
        }
        let mut length = [0; 2];
        self.take(&mut length)?;
        let length = usize::from(u16::from_le_bytes(length));
        if length == 0 {
            self.over = true;
            let want = self.hash.clone().finalize();
            let mut got = [0; 33];
            // One byte more than there should be.
            let mut filled = 0;
            while filled < got.len() {
                match self.input.read(&mut got[filled..])? {
                    0 => break,
                    n => filled += n,
                }
            }
            return if filled == 32 && got[..32] == want[..] {
                Ok(None)
            } else {
                Err(damaged("its digest does not fit"))
            };
        }
        let mut body = [0; ENTRY_BYTES];
        let body = body.get_mut(..length).ok_or_else(|| damaged("an entry is too long"))?;
        self.take(body)?;
        postcard::from_bytes(body)
            .map(Some)
            .map_err(|_| damaged("an entry is none"))
    }

    fn take(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(buffer.len() as u64)
            .ok_or_else(|| damaged("it is too long"))?;
        self.input.read_exact(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
            _ => e,
        })?;
        self.hash.update(&*buffer);
        Ok(())
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Sum> {
        let sum = |depth, name: &[u8], what| Sum {
            depth,
            name: name.to_vec(),
            what,
            mode: 0o755,
            uid: 0,
            gid: 70_000,
            xattrs: None,
        };
        vec![
            sum(0, b"", What::Dir),
            sum(
                1,
                &[b'n'; bounds::FILE_NAME_BYTES],
                What::File(u64::MAX, Digest::of(b"x")),
            ),
            sum(1, b"\xff", What::Whiteout),
        ]
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<Sum>> {
        let mut reader = SumsReader::new(bytes)?;
        let mut all = Vec::new();
        while let Some(sum) = reader.next_sum()? {
            all.push(sum);
        }
        Ok(all)
    }

    #[test]
    fn any_flipped_bit_and_lost_or_added_byte_is_found() {
        let mut bytes = Vec::new();
        let mut writer = SumsWriter::new(&mut bytes).unwrap();
        sample().iter().for_each(|sum| writer.add(sum).unwrap());
        let length = writer.finish().unwrap();
        assert_eq!(length, bytes.len() as u64);
        assert_eq!(read(&bytes).unwrap(), sample());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "length {length}");
        }
        bytes.push(0);
        assert!(read(&bytes).is_err());
    }
}
