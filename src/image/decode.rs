//! The decoder: a process that turns the compressed bytes of a layer on its input into the archive on its output.
//!
//! Decompression of bytes that nobody has checked yet is the work most likely to be attacked, so it happens where nothing is left to
//! take: no files, no network, no other system calls than reading, writing and memory. The exit status says how it ended.
//!
//! Its output is the bare archive, or frames of 4 bytes of kind, 4 bytes of length (little endian) and a body: 0 a piece of the archive, 1 a [`Point`] in
//! postcard, from which another decoder can go on. That one gets the length of a point (4 bytes) and the point on its input, then
//! the bytes of the blob after it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::sys::inflate::{Inflate, WINDOW_BYTES};
use crate::sys::sandbox::{self, Profile};
use crate::types::bounds;

/// How a layer is compressed, by its first bytes: names in registries lie, bytes do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// gzip (RFC 1952), one or several members.
    Gzip,
    /// Zstandard (RFC 8878), frames and skippable frames.
    Zstd,
    /// Not at all.
    Plain,
}

impl Format {
    /// Bytes of a blob's beginning that [`Format::of`] wants to see.
    pub const MAGIC_BYTES: usize = 4;

    /// The format of a blob that begins with these bytes.
    pub fn of(start: &[u8]) -> Format {
        match start {
            [0x1f, 0x8b, ..] => Format::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
            _ => Format::Plain,
        }
    }

    /// Whether its decoder tells points from which another one can go on; the state of zstd cannot be had.
    pub fn has_points(self) -> bool {
        self != Format::Zstd
    }

    fn name(self) -> &'static str {
        match self {
            Format::Gzip => "gzip",
            Format::Zstd => "zstd",
            Format::Plain => "plain",
        }
    }
}

/// How decoding failed; the numbers are exit statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not what they claim to be.
    #[error("its compressed bytes are corrupt")]
    Corrupt,
    /// They end too early.
    #[error("its compressed bytes end in the middle")]
    Truncated,
    /// They become more than the bound.
    #[error("it expands to more than is allowed for it (free space and ratio to its compressed size)")]
    TooLong,
    /// They need more memory than the bound.
    #[error("it needs a zstd window above 8 MiB; push the image again with a smaller one (`zstd --long` was used)")]
    Window,
    /// Nobody takes the output any more.
    #[error("its archive was not taken")]
    Output,
    /// The sandbox could not be entered, or the arguments make no sense.
    #[error("the decoder could not start")]
    Start,
    /// It was killed.
    #[error("the decoder died")]
    Died,
}

const STATUSES: [(DecodeError, u8); 6] = [
    (DecodeError::Corrupt, 10),
    (DecodeError::Truncated, 11),
    (DecodeError::TooLong, 12),
    (DecodeError::Window, 13),
    (DecodeError::Output, 14),
    (DecodeError::Start, 15),
];

impl DecodeError {
    /// What the end of a decoder means.
    pub fn of(status: std::process::ExitStatus) -> Result<(), DecodeError> {
        match status.code() {
            Some(0) => Ok(()),
            code => Err(STATUSES
                .iter()
                .find(|(_, n)| code == Some(i32::from(*n)))
                .map_or(DecodeError::Died, |(error, _)| *error)),
        }
    }
}

/// A place between two blocks of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Bytes of the blob before it.
    pub at: u64,
    /// The last of them.
    pub last: u8,
    /// How many of that one's upper bits belong to what follows.
    pub bits: u8,
    /// CRC-32 of what the current member of the gzip file has become so far.
    pub crc: u32,
    /// Bytes of that, modulo 2^32.
    pub length: u32,
    /// Its last 32 KiB.
    #[serde(with = "serde_bytes")]
    pub window: Vec<u8>,
}

impl Point {
    /// As a decoder wants it on its input.
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_allocvec(self).unwrap_or_default();
        let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&body);
        bytes
    }

    /// From the body of a frame; nothing in it is to be trusted.
    pub fn decode(body: &[u8]) -> Option<Point> {
        let point: Point = postcard::from_bytes(body).ok()?;
        // What comes after it is counted from there.
        (point.at <= u64::MAX / 2).then_some(point)
    }

    fn read(mut input: impl Read) -> Result<Point, DecodeError> {
        let mut length = [0; 4];
        input.read_exact(&mut length).map_err(|_| DecodeError::Start)?;
        let mut body = vec![0; (u32::from_le_bytes(length) as usize).min(POINT_BYTES)];
        input.read_exact(&mut body).map_err(|_| DecodeError::Start)?;
        Point::decode(&body).ok_or(DecodeError::Start)
    }
}

/// Bytes of a point at the most: its window and some numbers.
pub const POINT_BYTES: usize = WINDOW_BYTES + 64;
/// Bytes of a frame's head.
pub const HEAD_BYTES: usize = 8;
/// Bytes of a frame's body at the most.
pub const FRAME_BYTES: usize = bounds::TAR_BUFFER_BYTES;

/// A frame's kind and the length of its body; `None` for what no decoder says.
pub fn head(bytes: [u8; HEAD_BYTES]) -> Option<(bool, usize)> {
    let [kind, 0, 0, 0, a, b, c, d] = bytes else {
        return None;
    };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    (kind <= 1 && length <= FRAME_BYTES).then_some((kind == 1, length))
}

/// The command of a decoder that gives out at most `max` bytes, in frames; with `go_on` it wants a [`Point`] first.
pub fn framed(program: &std::path::Path, format: Format, max: u64, go_on: bool) -> Command {
    let mut command = command(program, format, max);
    command.arg(if go_on { "go-on" } else { "frames" });
    command
}

/// The command of a decoder that gives out at most `max` bytes, bare.
pub fn command(program: &std::path::Path, format: Format, max: u64) -> Command {
    let mut command = Command::new(program);
    command.args(["decode", format.name(), &max.to_string()]).env_clear();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// The role: decodes standard input to standard output. `args` are the format and the bound in bytes, and `frames`, or `go-on` after a
/// point, for frames. Returns the exit status.
pub fn main(args: &[String]) -> u8 {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (format, max, how) = match args[..] {
        [format, max] => (format, max, ""),
        [format, max, how @ ("frames" | "go-on")] => (format, max, how),
        _ => ("", "", ""),
    };
    let done = max
        .parse()
        .map_err(|_| DecodeError::Start)
        .and_then(|max| run(format, max, how));
    match done {
        Ok(()) => 0,
        Err(error) => STATUSES.iter().find(|(e, _)| *e == error).map_or(1, |(_, n)| *n),
    }
}

fn run(format: &str, max: u64, how: &str) -> Result<(), DecodeError> {
    let open = |fd: io::Result<std::os::fd::OwnedFd>| fd.map(File::from).map_err(|_| DecodeError::Start);
    let input = open(io::stdin().as_fd().try_clone_to_owned())?;
    let output = open(io::stdout().as_fd().try_clone_to_owned())?;
    sandbox::enter(Profile::Filter, &[]).map_err(|_| DecodeError::Start)?;
    let done = match how {
        "go-on" => go_on(format, &input, &output, max),
        how => work(format, &input, None, Out::new(&output, max, !how.is_empty())),
    };
    // The process ends now. Closing asks about the descriptor first in debug builds, which the filter forbids.
    std::mem::forget((input, output));
    done
}

/// Decodes `input` to `output`, at most `max` bytes, without frames.
pub fn decode(format: &str, input: impl Read, output: impl Write, max: u64) -> Result<(), DecodeError> {
    work(format, input, None, Out::new(output, max, false))
}

/// The same in frames, from the [`Point`] that comes first.
pub fn go_on(format: &str, mut input: impl Read, output: impl Write, max: u64) -> Result<(), DecodeError> {
    let point = Point::read(&mut input)?;
    work(format, input, Some(point), Out::new(output, max, true))
}

fn work(format: &str, input: impl Read, point: Option<Point>, mut out: Out<impl Write>) -> Result<(), DecodeError> {
    let mut input = BufReader::with_capacity(bounds::DECODE_BUFFER_BYTES, input);
    match format {
        "gzip" => gunzip(&mut input, point, &mut out),
        "zstd" => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(|_| DecodeError::Start)?;
            decoder
                .window_log_max(bounds::ZSTD_WINDOW_LOG)
                .map_err(|_| DecodeError::Start)?;
            loop {
                match decoder.read(out.room()) {
                    Ok(0) => return Ok(()),
                    Ok(made) => out.made(made)?,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(reason(&e)),
                }
                out.flush()?;
            }
        }
        "plain" => {
            let mut at = point.map_or(0, |point| point.at);
            loop {
                let got = input.read(out.room()).map_err(|e| reason(&e))?;
                if got == 0 {
                    return Ok(());
                }
                out.made(got)?;
                at += got as u64;
                out.flush()?;
                if out.is_due(at) {
                    out.point(&Point { at, ..Point::default() })?;
                }
            }
        }
        _ => Err(DecodeError::Start),
    }
}

/// One or several members, each with a header, a deflate stream, and its sum and length (RFC 1952).
fn gunzip(
    input: &mut BufReader<impl Read>,
    mut go_on: Option<Point>,
    out: &mut Out<impl Write>,
) -> Result<(), DecodeError> {
    let mut at = go_on.as_ref().map_or(0, |point| point.at);
    loop {
        let (mut inflate, mut crc, mut length, mut last) = match go_on.take() {
            Some(point) => {
                let inflate = Inflate::go_on(&point.window, point.bits, point.last);
                (inflate, point.crc, point.length, point.last)
            }
            None => {
                at += gzip_header(input)?;
                (Inflate::new(), 0, 0u32, 0)
            }
        };
        let inflate = inflate.as_mut().map_err(|_| DecodeError::Start)?;
        loop {
            if input.buffer().is_empty() {
                // Nothing is held back while the source is waited for.
                out.flush()?;
            }
            let chunk = input.fill_buf().map_err(|e| reason(&e))?;
            if chunk.is_empty() {
                return Err(DecodeError::Truncated);
            }
            let room = out.room();
            let step = inflate.run(chunk, room, true).map_err(|e| reason(&e))?;
            if let Some(taken) = step.used.checked_sub(1) {
                last = chunk[taken];
            }
            crc = zlib_rs::crc32::crc32(crc, &room[..step.made]);
            length = length.wrapping_add(step.made as u32);
            input.consume(step.used);
            at += step.used as u64;
            out.made(step.made)?;
            if step.end {
                break;
            }
            if let Some(bits) = step.block
                && out.is_due(at)
            {
                let window = inflate.window().map_err(|_| DecodeError::Start)?;
                out.flush()?;
                out.point(&Point {
                    at,
                    last,
                    bits,
                    crc,
                    length,
                    window,
                })?;
            }
        }
        out.flush()?;
        let mut tail = [0; 8];
        input.read_exact(&mut tail).map_err(|e| reason(&e))?;
        at += tail.len() as u64;
        if tail[..4] != crc.to_le_bytes() || tail[4..] != length.to_le_bytes() {
            return Err(DecodeError::Corrupt);
        }
        if input.fill_buf().map_err(|e| reason(&e))?.is_empty() {
            return Ok(());
        }
    }
}

/// Reads a member's header; returns its bytes.
fn gzip_header(input: &mut impl BufRead) -> Result<u64, DecodeError> {
    let mut taken = 0;
    let mut take = |buffer: &mut [u8]| {
        taken += buffer.len() as u64;
        input.read_exact(buffer).map_err(|e| reason(&e))
    };
    let mut head = [0; 10];
    take(&mut head)?;
    let [0x1f, 0x8b, 8, flags, ..] = head else {
        return Err(DecodeError::Corrupt);
    };
    if flags & 0xe0 != 0 {
        return Err(DecodeError::Corrupt);
    }
    if flags & 4 != 0 {
        let mut length = [0; 2];
        take(&mut length)?;
        take(&mut vec![0; u16::from_le_bytes(length).into()])?;
    }
    // A name and a comment, each ended by a zero.
    for flag in [8, 16] {
        let mut byte = [u8::from(flags & flag != 0)];
        while byte[0] != 0 {
            take(&mut byte)?;
        }
    }
    if flags & 2 != 0 {
        take(&mut [0; 2])?;
    }
    Ok(taken)
}

/// What a decoder says, in frames or bare.
struct Out<W> {
    to: W,
    /// Room for a head, then the piece.
    buffer: Vec<u8>,
    filled: usize,
    total: u64,
    max: u64,
    framed: bool,
    /// Bytes of the blob and of the archive at the last point.
    point: (u64, u64),
}

impl<W: Write> Out<W> {
    fn new(to: W, max: u64, framed: bool) -> Out<W> {
        Out {
            to,
            buffer: vec![0; HEAD_BYTES + FRAME_BYTES],
            filled: HEAD_BYTES,
            total: 0,
            max,
            framed,
            point: (0, 0),
        }
    }

    /// Where the next bytes go; never empty.
    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// So many are there.
    fn made(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.filled += bytes;
        self.total += bytes as u64;
        if self.total > self.max {
            return Err(DecodeError::TooLong);
        }
        if self.filled == self.buffer.len() {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), DecodeError> {
        let length = self.filled - HEAD_BYTES;
        if length == 0 {
            return Ok(());
        }
        self.buffer[..4].copy_from_slice(&[0; 4]);
        self.buffer[4..HEAD_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
        let from = if self.framed { 0 } else { HEAD_BYTES };
        let written = self.to.write_all(&self.buffer[from..self.filled]);
        self.filled = HEAD_BYTES;
        written.map_err(|_| DecodeError::Output)
    }

    /// Whether the last point is far enough behind both in the blob and in the archive.
    fn is_due(&mut self, at: u64) -> bool {
        if self.point == (0, 0) {
            // The first call after a start, wherever that was.
            self.point = (at, self.total);
        }
        self.framed
            && at >= self.point.0 + bounds::CHECKPOINT_BYTES
            && self.total >= self.point.1 + bounds::CHECKPOINT_BYTES
    }

    fn point(&mut self, point: &Point) -> Result<(), DecodeError> {
        self.point = (point.at, self.total);
        let body = point.encode();
        let mut frame = vec![1, 0, 0, 0];
        frame.extend_from_slice(&body);
        self.to.write_all(&frame).map_err(|_| DecodeError::Output)
    }
}

fn reason(error: &io::Error) -> DecodeError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => DecodeError::Truncated,
        // The library's own words for ZSTD_error_frameParameter_windowTooLarge; it gives no number.
        _ if error.to_string().contains("too much memory") => DecodeError::Window,
        _ => DecodeError::Corrupt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8], window: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window).unwrap();
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn run(input: &[u8], max: u64) -> Result<Vec<u8>, DecodeError> {
        let mut output = Vec::new();
        decode(Format::of(input).name(), input, &mut output, max).map(|()| output)
    }

    #[test]
    fn decodes_by_the_first_bytes_and_within_bounds() {
        let data: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&data, 20)].concat();
        for packed in [
            gzip(&data),
            [gzip(&data[..1000]), gzip(&data[1000..])].concat(),
            zstd(&data, 20),
            skippable,
        ] {
            assert!(run(&packed, data.len() as u64).unwrap() == data);
            assert_eq!(run(&packed, data.len() as u64 - 1), Err(DecodeError::TooLong));
            assert_eq!(run(&packed[..packed.len() - 9], 1 << 20), Err(DecodeError::Truncated));
        }
        assert_eq!(run(b"plain", 5).unwrap(), b"plain");
        let mut corrupt = gzip(&data);
        corrupt[100] ^= 0xff;
        assert!(run(&corrupt, 1 << 20).is_err());
    }

    #[test]
    fn refuses_windows_above_the_bound() {
        let data = vec![7; 1000];
        assert!(run(&zstd(&data, 23), 1 << 20).is_ok());
        assert_eq!(run(&zstd(&data, 24), 1 << 20), Err(DecodeError::Window));
    }
}
