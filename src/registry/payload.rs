//! The body of a request: bytes that are there, or pieces as they come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::mpsc;

/// A body.
pub(crate) enum Payload {
    Whole(Option<Bytes>),
    Pieces(Pieces),
}

/// Pieces of a body; an error among them breaks the request off.
#[derive(Debug)]
pub(crate) struct Pieces {
    queue: mpsc::Receiver<io::Result<Bytes>>,
    moved: Arc<AtomicU64>,
}

/// How much of a body was taken.
pub(crate) struct Moved(Arc<AtomicU64>);

impl Pieces {
    pub(crate) fn new(queue: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self {
            queue,
            moved: Arc::default(),
        }
    }

    pub(crate) fn moved(&self) -> Moved {
        Moved(self.moved.clone())
    }
}

impl Moved {
    /// Ends when nothing was taken for so long.
    pub(crate) async fn stops(&self, after: Duration) {
        let mut last = self.0.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(after).await;
            let now = self.0.load(Ordering::Relaxed);
            if now == last {
                return;
            }
            last = now;
        }
    }
}

impl Payload {
    pub(crate) fn new(whole: Bytes, pieces: Option<Pieces>) -> Self {
        match pieces {
            Some(pieces) => Self::Pieces(pieces),
            None => Self::Whole(Some(whole).filter(|bytes| !bytes.is_empty())),
        }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(whole) => Poll::Ready(whole.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(pieces) => pieces.queue.poll_recv(context).map(|piece| {
                piece.map(|piece| {
                    let bytes = piece?;
                    pieces.moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    Ok(Frame::data(bytes))
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}
