//! The blocking side of one layer: decoder → SHA-256 → worker → store, on a thread of its own.

use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;

use sha2::Digest as _;
use tokio::sync::oneshot;

use super::course::{Course, Stream};
use super::decode::{self, DecodeError, Format, Point};
use super::fetch::{Context, Wanted};
use super::pull::LayerError;
use super::sweep;
use super::unpack::{Limits, Stats};
use super::worker::{Job, Parents, Reply, Worker, WorkerError, Workers};
use crate::store::{LayerKey, LayerLock, LayerStage, NewLayer};
use crate::sys::fs;
use crate::types::bounds;
use crate::types::digest::Digest;

/// What the asynchronous side and the line's thread say to each other.
pub(super) struct Ends {
    /// Asks for the layers below; the answer comes over the channel inside.
    pub(super) leans: oneshot::Sender<oneshot::Sender<Vec<LayerKey>>>,
    /// What became of the compressed bytes; closed when the pull is given up.
    pub(super) verdict: oneshot::Receiver<Fed>,
}

/// What became of the compressed bytes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fed {
    /// All came, and they are right.
    Right,
    /// Other bytes came, or nobody took them.
    Wrong,
    /// Their source broke off.
    Broken,
}

/// How a layer begins.
pub(super) struct Begin {
    pub(super) format: Format,
    pub(super) limits: Limits,
    pub(super) stage: LayerStage,
    /// Where it goes on.
    pub(super) stream: Option<Box<Stream>>,
    /// Where to note how far it is.
    pub(super) course: Option<Arc<Course>>,
}

/// Decoder, hash and worker of one layer.
pub(super) struct Line {
    context: Arc<Context>,
    begin: Begin,
    decoder: Child,
    output: File,
    writer: PipeWriter,
    worker: Worker,
    index: usize,
    diff: Digest,
    chain: Digest,
    _lock: Arc<LayerLock>,
}

impl Line {
    /// Starts the helpers. Returns the decoder's input too.
    pub(super) fn start(
        context: &Arc<Context>,
        wanted: &Wanted,
        begin: Begin,
        lock: &Arc<LayerLock>,
    ) -> Result<(Line, OwnedFd), LayerError> {
        let failed = |action| move |source| LayerError::Helper { action, source };
        let started = (|| {
            let stage = &begin.stage;
            let (reader, writer) = io::pipe().map_err(failed("make a pipe"))?;
            fs::grow_pipe(&writer, bounds::PIPE_BYTES);
            let tree = fs::name_dir(&stage.tree()).map_err(failed("open the layer's folder"))?;
            let layers = fs::name_dir(&context.store.layout().layers()).map_err(failed("open the folder of layers"))?;
            let (sums, recipe) = (stage.create_sums()?, stage.recipe(begin.stream.is_none())?);
            let journal = begin.course.as_ref().map(|_| stage.journal()).transpose()?;
            let mut fds = vec![tree.as_fd(), reader.as_fd(), layers.as_fd()];
            if let Some(journal) = &journal {
                fds.extend([journal.as_fd(), lock.as_fd()]);
            }
            fds.extend([sums.as_fd(), recipe.as_fd()]);
            let (limits, stream) = (begin.limits, begin.stream.as_ref());
            let state = stream.map(|stream| stream.state.clone()).unwrap_or_default();
            let marks = journal.is_some().then_some(state);
            let worker = Worker::start(&*context.workers, Job::Unpack { limits, marks }, &fds)?;
            let max = limits.archive.saturating_sub(stream.map_or(0, |stream| stream.made));
            let command = decode::framed(&context.program, begin.format, max, stream.is_some()).spawn();
            let mut decoder = command.map_err(failed("start a decoder"))?;
            let (Some(input), Some(output)) = (decoder.stdin.take(), decoder.stdout.take()) else {
                return Err(LayerError::GivenUp);
            };
            fs::grow_pipe(&input, bounds::FEED_PIPE_BYTES);
            fs::grow_pipe(&output, bounds::PIPE_BYTES);
            Ok((
                worker,
                decoder,
                OwnedFd::from(input),
                File::from(OwnedFd::from(output)),
                writer,
            ))
        })();
        match started {
            Ok((worker, decoder, input, output, writer)) => {
                let context = context.clone();
                let (index, diff, chain) = (wanted.index, wanted.diff, wanted.chain);
                let line = Line {
                    context,
                    begin,
                    decoder,
                    output,
                    writer,
                    worker,
                    index,
                    diff,
                    chain,
                    _lock: lock.clone(),
                };
                Ok((line, input))
            }
            Err(error) => {
                dispose(&*context.workers, &begin.stage);
                Err(error)
            }
        }
    }

    pub(super) fn run(self, ends: Ends) -> Result<LayerKey, LayerError> {
        let Line {
            context,
            begin,
            mut decoder,
            output,
            writer,
            mut worker,
            index,
            diff,
            chain,
            _lock,
        } = self;
        let Begin {
            stage, stream, course, ..
        } = begin;
        let course = course.as_deref();
        let Ends { leans, verdict } = ends;
        let (pumped, reply) = std::thread::scope(|scope| {
            let pump = scope.spawn(|| pump(output, writer, diff, stream.as_deref(), course));
            let reply = loop {
                match worker.reply_while(&|| !pump.is_finished()) {
                    Ok(Reply::Mark { taken, bytes, state }) => {
                        match course.map_or(Ok(None), |course| course.mark(taken, bytes, state)) {
                            Ok(None) => {}
                            Ok(Some(mark)) => drop(course.map(|course| scope.spawn(|| course.sync(mark)))),
                            // A full disk shows where the layer itself is written; without a mark it only cannot be gone on with.
                            Err(error) => crate::debug!("{error}; the layer is not marked"),
                        }
                    }
                    Ok(Reply::Unmarked) => {
                        let gone = course.map_or(Ok(()), Course::end).map_err(LayerError::from);
                        let told = gone.and_then(|()| Ok(worker.parents(Parents(Vec::new()))?));
                        if let Err(error) = told {
                            break Err(error);
                        }
                    }
                    other => break other.map_err(LayerError::from),
                }
            };
            (pump.join().unwrap_or(Err(LayerError::GivenUp)), reply)
        });
        let decoded = reap(&mut decoder, pumped.is_err());
        let mut verdict = Some(verdict);
        let mut fed = None;
        let mut hear = || {
            if let Some(verdict) = verdict.take() {
                fed = verdict.blocking_recv().ok();
            }
            fed
        };
        let done = settle(&context, &mut worker, index, leans, reply, pumped, decoded)
            .and_then(|stats| match hear() {
                Some(Fed::Right) => Ok(stats),
                _ => Err(LayerError::GivenUp),
            })
            .and_then(|stats| {
                let key = if stats.leans { chain } else { diff };
                let layer = NewLayer {
                    diff,
                    key,
                    leans: stats.leans,
                    opaque: stats.opaque,
                    root: stats.root,
                    size: stats.bytes + stats.sums.next_multiple_of(4096) + stats.recipe.next_multiple_of(4096),
                    entries: stats.entries,
                    devices: stats.devices,
                };
                if let Some(course) = course {
                    course.stop();
                }
                Ok(context.store.commit_layer(&stage, &layer)?)
            });
        drop(worker);
        if !matches!(done, Ok((_, true))) {
            // Where the source broke off, or the pull was given up, errors of the helpers are its echo.
            let echo = matches!(hear(), None | Some(Fed::Broken));
            if !(echo && course.is_some_and(Course::is_kept)) {
                if let Some(course) = course {
                    course.stop();
                }
                dispose(&*context.workers, &stage);
            }
        }
        done.map(|(key, _)| key)
    }
}

/// Copies the archive from the decoder to the worker and checks it against the diff id.
fn pump(
    mut output: File,
    mut writer: PipeWriter,
    diff: Digest,
    stream: Option<&Stream>,
    course: Option<&Course>,
) -> Result<(), LayerError> {
    let failed = |action| move |source| LayerError::Helper { action, source };
    let mut made = stream.map_or(0, |stream| stream.made);
    let taken = stream.map_or(0, |stream| stream.taken);
    let mut hash = stream.and_then(Stream::made_hash).unwrap_or_default();
    let mut buffer = vec![0; decode::FRAME_BYTES];
    loop {
        let mut head = [0; decode::HEAD_BYTES];
        match output.read_exact(&mut head) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            other => other.map_err(failed("read from the decoder"))?,
        }
        let (is_point, length) = decode::head(head).ok_or(DecodeError::Died)?;
        let body = &mut buffer[..length];
        output.read_exact(body).map_err(failed("read from the decoder"))?;
        if is_point {
            if let (Some(course), Some(point)) = (course, Point::decode(body)) {
                course.point(point, made, &hash);
            }
            continue;
        }
        hash.update(&*body);
        // What the worker has already, since it was further than the decoder.
        let known = usize::try_from(taken.saturating_sub(made)).map_or(length, |known| known.min(length));
        made += length as u64;
        writer.write_all(&body[known..]).map_err(failed("feed the worker"))?;
    }
    let got = Digest::from_bytes(hash.finalize().into());
    if got != diff {
        return Err(LayerError::DiffId { got, want: diff });
    }
    Ok(())
}

/// The end of the decoder; one whose output nobody takes any more is killed.
fn reap(decoder: &mut Child, kill: bool) -> Result<(), DecodeError> {
    if kill {
        let _ = decoder.kill();
    }
    decoder.wait().map_or(Err(DecodeError::Died), DecodeError::of)
}

/// Hears the worker out, and names the failure that came first in the line.
fn settle(
    context: &Context,
    worker: &mut Worker,
    index: usize,
    leans: oneshot::Sender<oneshot::Sender<Vec<LayerKey>>>,
    mut reply: Result<Reply, LayerError>,
    pumped: Result<(), LayerError>,
    decoded: Result<(), DecodeError>,
) -> Result<Stats, LayerError> {
    if matches!(reply, Ok(Reply::Leans)) && pumped.is_ok() && decoded.is_ok() {
        reply = match below(context, index, leans)? {
            Some(parents) => worker
                .parents(parents)
                .and_then(|()| worker.reply())
                .map_err(Into::into),
            None => return Err(LayerError::GivenUp),
        };
    } else {
        drop(leans);
    }
    // A worker or a line that broke leaves the decoder with nobody to write to.
    let decoder_at_fault = !matches!(decoded, Ok(()) | Err(DecodeError::Output | DecodeError::Died));
    if decoder_at_fault {
        decoded?;
    }
    let reply = reply?;
    pumped?;
    decoded?;
    match reply {
        Reply::Unpacked(stats) => Ok(stats),
        _ => Err(WorkerError::unexpected().into()),
    }
}

/// The layers below, topmost first, down to the first that hides the rest; `None` when the pull is given up.
fn below(
    context: &Context,
    index: usize,
    leans: oneshot::Sender<oneshot::Sender<Vec<LayerKey>>>,
) -> Result<Option<Parents>, LayerError> {
    if index == 0 {
        return Ok(Some(Parents(Vec::new())));
    }
    let (sender, answer) = oneshot::channel();
    if leans.send(sender).is_err() {
        return Ok(None);
    }
    let Ok(keys) = answer.blocking_recv() else {
        return Ok(None);
    };
    let mut trees = Vec::new();
    for key in keys {
        trees.push(context.store.tree(&key.key));
        if context.store.layer(&key.key)?.is_some_and(|layer| layer.opaque) {
            break;
        }
    }
    Ok(Some(Parents(trees)))
}

/// Removes what is left of a layer. What cannot be removed now is found by the next sweep.
pub(super) fn dispose(workers: &dyn Workers, stage: &LayerStage) {
    // First what makes it look like something to go on with.
    stage.remove_rest();
    if let Err(error) = sweep::remove_layer(workers, stage.dir()) {
        crate::warn!("{}: {error}; the next start removes it", stage.dir().display());
    }
    stage.remove_rest();
}
