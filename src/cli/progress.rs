//! Progress on stderr: of a pull, a bar per layer on a terminal, plain lines elsewhere; of a check, one bar.

use super::failure::say;
use super::human;
use crate::image::pull::Progress;
use crate::sys::tty;
use crate::types::digest::Digest;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// Between two drawings of bars.
const PACE: Duration = Duration::from_millis(66);
/// Characters of a bar.
const BAR: usize = 30;

/// One line of a drawing.
#[derive(Debug, Clone, Default)]
struct Bar {
    name: String,
    done: u64,
    total: u64,
    word: &'static str,
}

impl Bar {
    /// Not wider than the terminal: a line that is folded could not be drawn over.
    fn line(&self, width: usize) -> String {
        let done = self.done.min(self.total);
        let filled = match self.total {
            0 => BAR,
            total => (done as u128 * BAR as u128 / total as u128) as usize,
        };
        let head = if filled < BAR { ">" } else { "" };
        let rest = BAR.saturating_sub(filled + head.len());
        let (bar, gap) = ("=".repeat(filled), " ".repeat(rest));
        let (done, total) = (human::size(done), human::size(self.total));
        let line = format!("{} [{bar}{head}{gap}] {done} / {total} {}", self.name, self.word);
        line.chars().take(width).collect()
    }
}

/// Bars on the terminal, one above the other, drawn again in place.
#[derive(Debug, Default)]
struct Bars {
    bars: Vec<Bar>,
    /// Lines that are there to be drawn over.
    drawn: usize,
    last: Option<Instant>,
}

impl Bars {
    /// Draws when it is time, or `now`.
    fn draw(&mut self, now: bool) {
        if !now && self.last.is_some_and(|last| last.elapsed() < PACE) {
            return;
        }
        self.last = Some(Instant::now());
        let size = tty::window_size(io::stderr().as_fd());
        let (rows, cols) = size.map_or((24, 80), |size| (usize::from(size.rows), usize::from(size.cols)));
        let (rows, cols) = if rows < 2 || cols < 2 { (24, 80) } else { (rows, cols) };
        // What scrolled away cannot be drawn over.
        let shown = self.bars.len().min(rows - 1);
        let mut text = match self.drawn {
            0 => String::new(),
            up => format!("\x1b[{up}A"),
        };
        for bar in &self.bars[self.bars.len() - shown..] {
            text.push_str(&format!("\r\x1b[2K{}\n", bar.line(cols - 1)));
        }
        self.drawn = shown;
        put(&text);
    }

    /// Takes the drawing away.
    fn clear(&mut self) {
        if self.drawn > 0 {
            put(&format!("\x1b[{}A\r\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }
}

fn put(text: &str) {
    // A terminal that is gone sees no progress.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Shows the steps of one pull.
pub struct Show {
    quiet: bool,
    bars: Option<Bars>,
    /// Of each bar.
    layers: Vec<Digest>,
}

impl Show {
    /// `quiet` shows nothing.
    pub fn new(quiet: bool) -> Show {
        let terminal = !quiet && tty::is_terminal(io::stderr().as_fd());
        Show {
            quiet,
            bars: terminal.then(Bars::default),
            layers: Vec::new(),
        }
    }

    /// One step.
    pub fn step(&mut self, step: Progress) {
        if self.quiet {
            return;
        }
        match step {
            Progress::Layers(layers) => {
                if let Some(bars) = &mut self.bars {
                    for (digest, total) in layers {
                        bars.bars.push(Bar {
                            name: format!("Copying blob {}", digest.short()),
                            total,
                            ..Bar::default()
                        });
                        self.layers.push(digest);
                    }
                    bars.draw(true);
                }
            }
            Progress::Exists(digest) => self.settle(&digest, "skipped: already exists"),
            Progress::Waits(digest) => self.change(&digest, true, |bar| bar.word = "another process pulls it"),
            Progress::Fetched(digest, bytes) => self.change(&digest, false, |bar| bar.done = bytes),
            Progress::Done(digest) => self.settle(&digest, "done"),
        }
    }

    fn change(&mut self, digest: &Digest, now: bool, change: impl Fn(&mut Bar)) {
        let place = self.layers.iter().position(|one| one == digest);
        if let (Some(bars), Some(place)) = (&mut self.bars, place) {
            change(&mut bars.bars[place]);
            bars.draw(now);
        }
    }

    fn settle(&mut self, digest: &Digest, word: &'static str) {
        if self.bars.is_none() {
            say(&format!("Copying blob {digest} {word}"));
        }
        self.change(digest, true, |bar| (bar.done, bar.word) = (bar.total, word));
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
    bars: Option<Bars>,
}

impl Gauge {
    /// For work called `what`.
    pub fn new(what: &'static str) -> Gauge {
        Gauge { what, bars: None }
    }

    /// There are so many bytes to do.
    pub fn begin(&mut self, total: u64) {
        self.end();
        if total > 0 && tty::is_terminal(io::stderr().as_fd()) {
            let bar = Bar {
                name: self.what.to_owned(),
                total,
                ..Bar::default()
            };
            let mut bars = Bars {
                bars: vec![bar],
                ..Bars::default()
            };
            bars.draw(true);
            self.bars = Some(bars);
        }
    }

    /// So many more are done.
    pub fn add(&mut self, bytes: u64) {
        if let Some(bars) = &mut self.bars {
            for bar in &mut bars.bars {
                bar.done = bar.done.saturating_add(bytes);
            }
            bars.draw(false);
        }
    }

    /// All are done.
    pub fn end(&mut self) {
        if let Some(mut bars) = self.bars.take() {
            bars.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_up_and_never_fold() {
        let bar = |done, total| Bar {
            name: "Copying blob 0123".into(),
            done,
            total,
            word: "",
        };
        for (done, total, filled) in [
            (0, 100, 0),
            (50, 100, 15),
            (99, 100, 29),
            (100, 100, 30),
            (7, 0, 30),
            (200, 100, 30),
        ] {
            let line = bar(done, total).line(200);
            assert_eq!(line.matches('=').count(), filled, "{line}");
            let inside = line.split(['[', ']']).nth(1).unwrap();
            assert_eq!(inside.len(), BAR, "{line}");
        }
        assert_eq!(bar(1, 2).line(20).chars().count(), 20);
        assert_eq!(bar(u64::MAX, u64::MAX).line(200).matches('=').count(), BAR);
    }
}
