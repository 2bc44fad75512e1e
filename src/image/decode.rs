//! The decoder: a process that turns the compressed bytes of a layer on its input into the archive on its output.
//!
//! Decompression of bytes that nobody has checked yet is the work most likely to be attacked, so it happens where nothing is left to
//! take: no files, no network, no other system calls than reading, writing and memory. The exit status says how it ended.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use crate::sys::sandbox::{self, Profile};
use crate::types::bounds;

/// How a layer is compressed, by its first bytes: names in registries lie, bytes do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// The command of a decoder that gives out at most `max` bytes.
pub fn command(program: &std::path::Path, format: Format, max: u64) -> Command {
    let mut command = Command::new(program);
    command.args(["decode", format.name(), &max.to_string()]).env_clear();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// The role: decodes standard input to standard output. `args` are the format and the bound, bytes. Returns the exit status.
pub fn main(args: &[String]) -> u8 {
    let done = match args {
        [format, max] => max
            .parse()
            .map_err(|_| DecodeError::Start)
            .and_then(|max| run(format, max)),
        _ => Err(DecodeError::Start),
    };
    match done {
        Ok(()) => 0,
        Err(error) => STATUSES.iter().find(|(e, _)| *e == error).map_or(1, |(_, n)| *n),
    }
}

fn run(format: &str, max: u64) -> Result<(), DecodeError> {
    let open = |fd: io::Result<std::os::fd::OwnedFd>| fd.map(File::from).map_err(|_| DecodeError::Start);
    let input = open(io::stdin().as_fd().try_clone_to_owned())?;
    let output = open(io::stdout().as_fd().try_clone_to_owned())?;
    sandbox::enter(Profile::Filter, &[]).map_err(|_| DecodeError::Start)?;
    let done = decode(format, &input, &output, max);
    // The process ends now. Closing asks about the descriptor first in debug builds, which the filter forbids.
    std::mem::forget((input, output));
    done
}

/// Decodes `input` to `output`, at most `max` bytes.
pub fn decode(format: &str, input: impl Read, output: impl Write, max: u64) -> Result<(), DecodeError> {
    let input = BufReader::with_capacity(bounds::DECODE_BUFFER_BYTES, input);
    match format {
        "gzip" => copy(flate2::bufread::MultiGzDecoder::new(input), output, max),
        "zstd" => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(|_| DecodeError::Start)?;
            decoder
                .window_log_max(bounds::ZSTD_WINDOW_LOG)
                .map_err(|_| DecodeError::Start)?;
            copy(decoder, output, max)
        }
        "plain" => copy(input, output, max),
        _ => Err(DecodeError::Start),
    }
}

fn copy(mut input: impl Read, mut output: impl Write, max: u64) -> Result<(), DecodeError> {
    let mut buffer = vec![0; bounds::TAR_BUFFER_BYTES];
    let mut total = 0u64;
    loop {
        let got = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(reason(&e)),
        };
        total += got as u64;
        if total > max {
            return Err(DecodeError::TooLong);
        }
        output.write_all(&buffer[..got]).map_err(|_| DecodeError::Output)?;
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
