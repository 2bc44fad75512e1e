//! The blocking side of one layer: decoder → SHA-256 → worker → store, on a thread of its own.

use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::decode::{self, DecodeError, Format};
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
    /// Comes when the compressed bytes are right; closed when they are not, or the pull is given up.
    pub(super) verdict: oneshot::Receiver<()>,
}

/// Decoder, hash and worker of one layer.
pub(super) struct Line {
    context: Arc<Context>,
    stage: LayerStage,
    decoder: Child,
    output: File,
    writer: PipeWriter,
    worker: Worker,
    index: usize,
    diff: Digest,
    chain: Digest,
    _lock: LayerLock,
}

impl Line {
    /// Starts the helpers. Returns the decoder's input too.
    pub(super) fn start(
        context: &Arc<Context>,
        wanted: &Wanted,
        limits: Limits,
        format: Format,
        lock: LayerLock,
    ) -> Result<(Line, OwnedFd), LayerError> {
        let failed = |action| move |source| LayerError::Helper { action, source };
        let stage = context.store.stage_layer(&context.staging)?;
        let started = (|| {
            let (reader, writer) = io::pipe().map_err(failed("make a pipe"))?;
            fs::grow_pipe(&writer, bounds::PIPE_BYTES);
            let tree = fs::name_dir(&stage.tree()).map_err(failed("open the layer's folder"))?;
            let layers = fs::name_dir(&context.store.layout().layers()).map_err(failed("open the folder of layers"))?;
            let (sums, recipe) = (stage.create_sums()?, stage.create_recipe()?);
            let fds = [
                tree.as_fd(),
                reader.as_fd(),
                layers.as_fd(),
                sums.as_fd(),
                recipe.as_fd(),
            ];
            let worker = Worker::start(&*context.workers, Job::Unpack { limits }, &fds)?;
            let command = decode::command(&context.program, format, limits.archive).spawn();
            let mut decoder = command.map_err(failed("start a decoder"))?;
            let (Some(input), Some(output)) = (decoder.stdin.take(), decoder.stdout.take()) else {
                return Err(LayerError::GivenUp);
            };
            fs::grow_pipe(&input, bounds::PIPE_BYTES);
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
                    stage,
                    decoder,
                    output,
                    writer,
                    worker,
                    index,
                    diff,
                    chain,
                    _lock: lock,
                };
                Ok((line, input))
            }
            Err(error) => {
                dispose(&*context.workers, &stage);
                Err(error)
            }
        }
    }

    pub(super) fn run(self, ends: Ends) -> Result<LayerKey, LayerError> {
        let Line {
            context,
            stage,
            mut decoder,
            output,
            writer,
            mut worker,
            index,
            diff,
            chain,
            _lock,
        } = self;
        let unpacked = pump(output, writer, diff);
        let decoded = reap(&mut decoder, unpacked.is_err());
        let done = settle(&context, &mut worker, index, ends, unpacked, decoded).and_then(|stats| {
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
            Ok(context.store.commit_layer(&stage, &layer)?)
        });
        drop(worker);
        if !matches!(done, Ok((_, true))) {
            dispose(&*context.workers, &stage);
        }
        done.map(|(key, _)| key)
    }
}

/// Copies the archive from the decoder to the worker and checks it against the diff id.
fn pump(mut output: File, mut writer: PipeWriter, diff: Digest) -> Result<(), LayerError> {
    let failed = |action| move |source| LayerError::Helper { action, source };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; bounds::TAR_BUFFER_BYTES];
    loop {
        let got = match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(failed("read from the decoder")(e)),
        };
        hash.update(&buffer[..got]);
        writer.write_all(&buffer[..got]).map_err(failed("feed the worker"))?;
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

/// Hears the worker out, then the network's side, and names the failure that came first in the line.
fn settle(
    context: &Context,
    worker: &mut Worker,
    index: usize,
    ends: Ends,
    pumped: Result<(), LayerError>,
    decoded: Result<(), DecodeError>,
) -> Result<Stats, LayerError> {
    let Ends { leans, verdict } = ends;
    let mut reply = worker.reply();
    if matches!(reply, Ok(Reply::Leans)) && pumped.is_ok() && decoded.is_ok() {
        reply = match below(context, index, leans)? {
            Some(parents) => worker.parents(parents).and_then(|()| worker.reply()),
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
    verdict.blocking_recv().map_err(|_| LayerError::GivenUp)?;
    match reply {
        Reply::Unpacked(stats) => Ok(stats),
        _ => Err(WorkerError::Malformed {
            why: "another answer than asked for".to_owned(),
        }
        .into()),
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
fn dispose(workers: &dyn Workers, stage: &LayerStage) {
    if let Err(error) = sweep::remove_layer(workers, stage.dir()) {
        crate::warn!("{}: {error}; the next start removes it", stage.dir().display());
    }
}
