//! A blob as one continuous body, however often the link drops.
//!
//! The first request asks for the whole blob, each further one for the closed range that is missing (RFC 9110, 206). A server
//! that ignores ranges sends everything again: what was delivered already is skipped. Content that turns out to be longer,
//! shorter or another one ends the stream with an error.

use hyper::StatusCode;
use hyper::body::{Buf, Bytes};
use hyper::header;

use super::Client;
use super::error::RegistryError;
use super::manifest::Descriptor;
use super::repository::Repository;
use super::retry::Tries;
use super::transport::{Body, Outgoing, Reply};
use crate::types::bounds::PROGRESS_BYTES;

/// A blob that is being fetched. The bytes are not verified against the digest here; their number is.
#[derive(Debug)]
pub struct BlobStream {
    client: Client,
    repository: Repository,
    place: usize,
    descriptor: Descriptor,
    /// What the consumer has, bytes from the beginning of the blob.
    offset: u64,
    body: Option<Body>,
    /// Bytes that the current body repeats.
    skip: u64,
    tries: Tries,
    /// The offset at which tries were last counted anew.
    mark: u64,
    traffic: Traffic,
}

/// What a stream has cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of bodies that came over the wire, repeated ones included.
    pub fetched: u64,
    /// Of these, bytes that were delivered already.
    pub repeated: u64,
    /// Requests beyond the first.
    pub resumed: u32,
    /// Answers whose bytes were taken.
    pub answers: u32,
}

impl BlobStream {
    pub(super) fn new(client: Client, repository: Repository, descriptor: Descriptor, offset: u64) -> Self {
        let tries = Tries::new(client.inner.transport.limits());
        let offset = offset.min(descriptor.size);
        Self {
            client,
            repository,
            place: 0,
            descriptor,
            offset,
            body: None,
            skip: 0,
            tries,
            mark: offset,
            traffic: Traffic::default(),
        }
    }

    /// The next bytes, never empty; `None` when all were delivered. Dropping the future loses nothing. After an error it may
    /// be called again: it goes on where it was.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            // Before the bytes are read: whoever drops this future while it waits loses none.
            self.client.inner.pace.wait().await;
            let Some(body) = &mut self.body else {
                if self.offset == self.descriptor.size {
                    return Ok(None);
                }
                if let Err(error) = self.open().await {
                    self.failed(error).await?;
                }
                continue;
            };
            match body.chunk().await {
                Ok(Some(data)) => match self.accept(data) {
                    Ok(Some(data)) => return Ok(Some(data)),
                    Ok(None) => {}
                    Err(error) => self.failed(error).await?,
                },
                // Everything is there: how the connection ends does not matter.
                Ok(None) | Err(_) if self.offset == self.descriptor.size && self.skip == 0 => self.body = None,
                Ok(None) => {
                    let error = self.length(Some(self.offset));
                    self.failed(error).await?;
                }
                Err(error) => self.failed(error).await?,
            }
        }
    }

    /// Bytes delivered so far, from the beginning of the blob.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What it has cost so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Takes bytes from the wire; gives those that are new.
    fn accept(&mut self, mut data: Bytes) -> Result<Option<Bytes>, RegistryError> {
        self.traffic.fetched += data.len() as u64;
        self.client.inner.pace.spend(data.len() as u64);
        let repeated = self.skip.min(data.len() as u64);
        self.skip -= repeated;
        self.traffic.repeated += repeated;
        // At most the chunk's length, which is a usize.
        data.advance(repeated as usize);
        if data.is_empty() {
            return Ok(None);
        }
        if data.len() as u64 > self.descriptor.size - self.offset {
            return Err(self.length(None));
        }
        self.offset += data.len() as u64;
        if self.offset - self.mark >= PROGRESS_BYTES {
            self.mark = self.offset;
            self.tries.progress();
        }
        Ok(Some(data))
    }

    /// Asks for what is missing.
    async fn open(&mut self) -> Result<(), RegistryError> {
        let Descriptor { digest, size, .. } = self.descriptor;
        let endpoint = &self.repository.endpoints[self.place];
        let mut out = Outgoing::get(format!("/v2/{}/blobs/{digest}", endpoint.path)).with(header::ACCEPT, "*/*");
        if self.offset > 0 {
            out = out.with(header::RANGE, &format!("bytes={}-{}", self.offset, size - 1));
        }
        let what = format!("{}@{digest}", endpoint.path);
        let reply = self.client.inner.ask(endpoint, &out, &what).await?;
        self.skip = self.judge(&reply)?;
        self.traffic.answers += 1;
        self.body = Some(reply.body);
        Ok(())
    }

    /// Whether an answer is about the blob that we want; gives the number of bytes that it repeats.
    fn judge(&self, reply: &Reply) -> Result<u64, RegistryError> {
        let Descriptor { digest, size, .. } = self.descriptor;
        let host = || self.host();
        if let Some(got) = reply
            .header("docker-content-digest")
            .and_then(|text| text.trim().parse().ok())
            && got != digest
        {
            return Err(RegistryError::Digest {
                host: host(),
                expected: digest,
                got,
            });
        }
        let range = reply.header("content-range").and_then(content_range);
        match (reply.head.status, range) {
            (StatusCode::OK, _) => match reply.header("content-length").and_then(|text| text.parse::<u64>().ok()) {
                Some(length) if length > size => Err(self.length(None)),
                Some(length) if length < size => Err(self.length(Some(length))),
                _ => Ok(self.offset),
            },
            (_, Some(ContentRange { total: Some(total), .. })) if total > size => Err(self.length(None)),
            (_, Some(ContentRange { total: Some(total), .. })) if total < size => Err(self.length(Some(total))),
            (StatusCode::PARTIAL_CONTENT, Some(ContentRange { first: Some(first), .. }))
                if self.offset > 0 && first <= self.offset =>
            {
                Ok(self.offset - first)
            }
            (status, _) => {
                let detail = format!(
                    "it answered {} to a request for bytes {} to {size}",
                    status.as_u16(),
                    self.offset
                );
                Err(RegistryError::Protocol { host: host(), detail })
            }
        }
    }

    /// Prepares the next try, here or at the next place; gives the error back where there is none.
    async fn failed(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.body = None;
        self.traffic.resumed += 1;
        let Err(error) = self.tries.next(error).await else {
            return Ok(());
        };
        self.tries = Tries::new(self.client.inner.transport.limits());
        if self.place + 1 == self.repository.endpoints.len() {
            self.place = 0;
            return Err(error);
        }
        crate::debug!("{error}; trying the next place");
        self.place += 1;
        Ok(())
    }

    fn length(&self, got: Option<u64>) -> RegistryError {
        RegistryError::Length {
            host: self.host(),
            digest: self.descriptor.digest,
            expected: self.descriptor.size,
            got,
        }
    }

    fn host(&self) -> String {
        self.repository.endpoints[self.place].registry().to_owned()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ContentRange {
    first: Option<u64>,
    total: Option<u64>,
}

/// `bytes FIRST-LAST/TOTAL`, `bytes FIRST-LAST/*` or `bytes */TOTAL` (RFC 9110, Content-Range).
fn content_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let total = match total {
        "*" => None,
        digits => Some(digits.parse().ok()?),
    };
    let first = match range {
        "*" => None,
        range => {
            let (first, last) = range.split_once('-')?;
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            Some(first).filter(|first| *first <= last)
        }
    };
    Some(ContentRange { first, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        for (text, first, total) in [
            ("bytes 5-9/10", Some(5), Some(10)),
            ("bytes 5-9/*", Some(5), None),
            ("bytes */10", None, Some(10)),
            ("bytes 9-5/10", None, Some(10)),
        ] {
            assert_eq!(content_range(text), Some(ContentRange { first, total }), "{text}");
        }
        for bad in [
            "",
            "bytes",
            "bytes 5/10",
            "bytes 5-x/10",
            "items 5-9/10",
            "bytes 5-9/-1",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
