//! A blob on its way as something that is read, as it is or decompressed.

use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout};

use hyper::body::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::decode::{self, DecodeError, Format};
use crate::registry::push::Feed;
use crate::types::bounds;
use crate::types::digest::Digest;

/// A feed as a file that is read; for threads that may block.
pub(super) struct Pieces {
    queue: mpsc::Receiver<io::Result<Bytes>>,
    end: Option<oneshot::Receiver<io::Result<(Digest, u64)>>>,
    now: Bytes,
}

impl Pieces {
    pub(super) fn new(feed: Feed) -> Pieces {
        Pieces {
            queue: feed.pieces,
            end: Some(feed.end),
            now: Bytes::new(),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match (self.queue.blocking_recv(), self.end.take()) {
                (Some(Ok(bytes)), end) => {
                    self.now = bytes;
                    self.end = end;
                }
                (_, Some(end)) => {
                    let ended = end.blocking_recv();
                    return ended
                        .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
                        .map(|_| 0);
                }
                (_, None) => return Ok(0),
            }
        }
        let take = buffer.len().min(self.now.len());
        buffer[..take].copy_from_slice(&self.now.split_to(take));
        Ok(take)
    }
}

/// Decompresses by a decoder in its sandbox.
pub(super) struct Decoded {
    child: Child,
    output: ChildStdout,
    fed: Option<std::thread::JoinHandle<io::Result<()>>>,
}

impl Decoded {
    pub(super) fn new(program: &Path, feed: Feed, most: u64) -> io::Result<Decoded> {
        let mut pieces = Pieces::new(feed);
        let mut start = Vec::new();
        (&mut pieces).take(Format::MAGIC_BYTES as u64).read_to_end(&mut start)?;
        let mut child = decode::command(program, Format::of(&start), most).spawn()?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let fed = std::thread::spawn(move || {
            let mut taken = input.write_all(&start);
            let mut buffer = vec![0; bounds::DECODE_BUFFER_BYTES];
            loop {
                // To the end also where the decoder gives up: wrong bytes are the better reason.
                match pieces.read(&mut buffer)? {
                    0 => return taken,
                    got if taken.is_ok() => taken = input.write_all(&buffer[..got]),
                    _ => {}
                }
            }
        });
        Ok(Decoded {
            child,
            output,
            fed: Some(fed),
        })
    }
}

impl Read for Decoded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.output.read(buffer)?;
        if got == 0
            && !buffer.is_empty()
            && let Some(fed) = self.fed.take()
        {
            let fed = fed.join().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
            let decoded = DecodeError::of(self.child.wait()?).map_err(io::Error::other);
            match fed {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => decoded.and(Err(e))?,
                fed => fed.and(decoded)?,
            }
        }
        Ok(got)
    }
}

impl Drop for Decoded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
