//! Progress on stderr: of a pull, a bar per layer on a terminal, plain lines elsewhere; of a check, one bar.

use super::failure::say;
use crate::image::pull::Progress;
use crate::sys::tty;
use crate::types::digest::Digest;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;

/// Shows the steps of one pull.
pub struct Show {
    quiet: bool,
    bars: Option<MultiProgress>,
    layers: BTreeMap<Digest, ProgressBar>,
}

impl Show {
    /// `quiet` shows nothing.
    pub fn new(quiet: bool) -> Show {
        let terminal = !quiet && tty::is_terminal(io::stderr().as_fd());
        Show {
            quiet,
            bars: terminal.then(MultiProgress::new),
            layers: BTreeMap::new(),
        }
    }

    /// One step.
    pub fn step(&mut self, step: Progress) {
        if self.quiet {
            return;
        }
        match step {
            Progress::Layers(layers) => {
                if let Some(bars) = &self.bars {
                    for (digest, bytes) in layers {
                        let bar = bars.add(ProgressBar::new(bytes).with_style(style()));
                        bar.set_prefix(format!("Copying blob {}", digest.short()));
                        self.layers.insert(digest, bar);
                    }
                }
            }
            Progress::Exists(digest) => self.settle(&digest, "skipped: already exists"),
            Progress::Waits(digest) => {
                if let Some(bar) = self.layers.get(&digest) {
                    bar.set_message("another process pulls it");
                }
            }
            Progress::Fetched(digest, bytes) => {
                if let Some(bar) = self.layers.get(&digest) {
                    bar.set_position(bytes);
                }
            }
            Progress::Done(digest) => self.settle(&digest, "done"),
        }
    }

    fn settle(&self, digest: &Digest, word: &'static str) {
        match self.layers.get(digest) {
            Some(bar) => {
                bar.set_position(bar.length().unwrap_or(0));
                bar.finish_with_message(word);
            }
            None if self.bars.is_none() => say(&format!("Copying blob {digest} {word}")),
            None => {}
        }
    }

    /// All steps are done.
    pub fn finish(&self) {
        if !self.quiet {
            say("Writing manifest to image destination");
        }
    }
}

/// How far one long piece of work is, as a bar on a terminal; nothing elsewhere.
pub struct Gauge {
    what: &'static str,
    bar: Option<ProgressBar>,
}

impl Gauge {
    /// For work called `what`.
    pub fn new(what: &'static str) -> Gauge {
        Gauge { what, bar: None }
    }

    /// There are so many bytes to do.
    pub fn begin(&mut self, bytes: u64) {
        self.end();
        if bytes > 0 && tty::is_terminal(io::stderr().as_fd()) {
            let bar = ProgressBar::new(bytes).with_style(style());
            bar.set_prefix(self.what);
            self.bar = Some(bar);
        }
    }

    /// So many more are done.
    pub fn add(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// All are done.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    // The template is a constant that the crate knows; should it not, its own default is as good.
    ProgressStyle::with_template("{prefix} [{bar:30}] {bytes} / {total_bytes} {msg}")
        .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "))
}
