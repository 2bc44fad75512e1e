//! Raw deflate streams (RFC 1951) that can be left at the end of a block, and gone on with by another process.
//!
//! What a stream remembers at the end of a block is its last 32 KiB and the bits of its last byte that belong to the next
//! block; zlib's example `zran.c` shows the principle. The functions needed for that stand in zlib-rs below its safe surface.

use std::io;

use zlib_rs::c_api::z_stream;
use zlib_rs::inflate::{self, InflateStream};
use zlib_rs::{InflateConfig, InflateFlush, ReturnCode};

/// The largest window, as a power of two.
const WINDOW_BITS: i32 = 15;
/// Bytes of that window.
pub const WINDOW_BYTES: usize = 1 << WINDOW_BITS;

/// One stream being decoded.
pub struct Inflate {
    stream: Box<z_stream>,
}

/// What one call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes taken from the input.
    pub used: usize,
    /// Bytes written to the output.
    pub made: usize,
    /// Whether the stream has ended.
    pub end: bool,
    /// Set when a block has ended and another one follows: how many of the upper bits of the last byte taken belong to that.
    pub block: Option<u8>,
}

impl Inflate {
    /// Begins.
    pub fn new() -> io::Result<Inflate> {
        let mut stream = Box::<z_stream>::default();
        let config = InflateConfig {
            window_bits: -WINDOW_BITS,
        };
        match inflate::init(&mut stream, config) {
            ReturnCode::Ok => Ok(Inflate { stream }),
            _ => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// Goes on after a block: with the bytes before it (32 KiB at the most), and the upper `bits` of the byte `last`.
    pub fn go_on(window: &[u8], bits: u8, last: u8) -> io::Result<Inflate> {
        if window.len() > WINDOW_BYTES || bits > 7 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut inflate = Inflate::new()?;
        let stream = inflate.stream_mut()?;
        let primed = inflate::prime(stream, i32::from(bits), i32::from(last) >> (8 - bits));
        if primed != ReturnCode::Ok || inflate::set_dictionary(stream, window) != ReturnCode::Ok {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(inflate)
    }

    /// Decodes from `input` to `output`, as far as both reach, or to the end of the current block.
    pub fn run(&mut self, input: &[u8], output: &mut [u8], to_block: bool) -> io::Result<Step> {
        let (input_len, output_len) = (u32::try_from(input.len()), u32::try_from(output.len()));
        let (Ok(input_len), Ok(output_len)) = (input_len, output_len) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.stream.next_in = input.as_ptr();
        self.stream.avail_in = input_len;
        self.stream.next_out = output.as_mut_ptr();
        self.stream.avail_out = output_len;
        let flush = if to_block {
            InflateFlush::Block
        } else {
            InflateFlush::NoFlush
        };
        let stream = self.stream_mut()?;
        // SAFETY: `next_in` and `next_out` were just set to slices of those lengths, which outlive the call.
        let code = unsafe { inflate::inflate(stream, flush) };
        let end = match code {
            ReturnCode::Ok | ReturnCode::BufError => false,
            ReturnCode::StreamEnd => true,
            ReturnCode::MemError => return Err(io::ErrorKind::OutOfMemory.into()),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        // Bits: 0 to 5 unused bits, 6 in the last block, 7 right after a block (zlib's manual, `inflate`).
        let (bits, last, after) = (
            self.stream.data_type & 63,
            self.stream.data_type & 64 != 0,
            self.stream.data_type & 128 != 0,
        );
        Ok(Step {
            used: input.len() - self.stream.avail_in as usize,
            made: output.len() - self.stream.avail_out as usize,
            end,
            block: (after && !last && !end && bits < 8).then_some(bits as u8),
        })
    }

    /// The last bytes that were made, 32 KiB at the most.
    pub fn window(&mut self) -> io::Result<Vec<u8>> {
        let mut window = vec![0; WINDOW_BYTES];
        let stream = self.stream_mut()?;
        // SAFETY: the buffer has the size of the largest window.
        let have = unsafe { inflate::get_dictionary(stream, window.as_mut_ptr()) };
        window.truncate(have);
        Ok(window)
    }

    fn stream_mut(&mut self) -> io::Result<&mut InflateStream<'static>> {
        // SAFETY: `new` initialised it, and nothing else has touched its state since.
        let stream = unsafe { InflateStream::from_stream_mut(&raw mut *self.stream) };
        stream.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        if let Ok(stream) = self.stream_mut() {
            inflate::end(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// Decodes all of it, asking for the end of a block each time.
    fn decode(mut inflate: Inflate, mut input: &[u8], mut each: impl FnMut(&mut Inflate, usize, usize, u8)) -> Vec<u8> {
        let (all, mut output, mut buffer) = (input.len(), Vec::new(), vec![0; 10_000]);
        loop {
            let some = input.len().min(777);
            let step = inflate.run(&input[..some], &mut buffer, true).unwrap();
            input = &input[step.used..];
            output.extend_from_slice(&buffer[..step.made]);
            if step.end {
                assert!(input.is_empty());
                return output;
            }
            assert!(step.used + step.made > 0 || step.block.is_some());
            if let Some(bits) = step.block {
                each(&mut inflate, all - input.len(), output.len(), bits);
            }
        }
    }

    #[test]
    fn every_block_is_a_place_to_go_on_from() {
        let mut seed = 1u32;
        let data: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            (seed >> 24) as u8 & 0x3f
        })
        .take(400_000)
        .collect();
        let mut odd = 0;
        // Level 1 of this library makes one block of everything.
        for level in [0, 2, 6, 9] {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
            encoder.write_all(&data).unwrap();
            let packed = encoder.finish().unwrap();
            let mut places = Vec::new();
            let whole = decode(Inflate::new().unwrap(), &packed, |inflate, at, made, bits| {
                places.push((at, made, bits, inflate.window().unwrap()));
            });
            assert!(whole == data);
            assert!(places.len() > 3, "{} at level {level}", places.len());
            for (at, made, bits, window) in places {
                let from = made.saturating_sub(WINDOW_BYTES);
                assert!(window == data[from..made], "the window at {made}");
                odd += usize::from(bits > 0);
                let inflate = Inflate::go_on(&window, bits, packed[at - 1]).unwrap();
                assert!(decode(inflate, &packed[at..], |_, _, _, _| ()) == data[made..]);
            }
        }
        assert!(odd > 5, "blocks end within bytes");
        assert!(Inflate::go_on(&[0; WINDOW_BYTES + 1], 0, 0).is_err());
        assert!(Inflate::go_on(&[], 8, 0).is_err());
    }
}
