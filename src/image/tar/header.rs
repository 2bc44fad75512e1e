//! One 512-byte header: fields, numbers, checksum (tar(5)).

use super::TarError;
use crate::sys::fs::Time;

/// Bytes of a block.
pub const BLOCK: usize = 512;

/// The block of a member in ustar form. Texts that are too long are cut, numbers lose their upper digits, but for the size:
/// what needs more says it in a PAX header too.
pub fn written(
    path: &[u8],
    link: &[u8],
    flag: u8,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    seconds: u64,
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8], max: usize| {
        let bytes = &bytes[..bytes.len().min(max)];
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let octal = |number: u64, digits: usize| format!("{:0digits$o}", number & ((1 << (3 * digits)) - 1));
    put(0, path, 100);
    put(100, octal(mode.into(), 7).as_bytes(), 7);
    put(108, octal(owner.0.into(), 7).as_bytes(), 7);
    put(116, octal(owner.1.into(), 7).as_bytes(), 7);
    if size < 1 << 33 {
        put(124, octal(size, 11).as_bytes(), 11);
    } else {
        // Base 256.
        put(124, &[0x80], 1);
        put(128, &size.to_be_bytes(), 8);
    }
    put(136, octal(seconds, 11).as_bytes(), 11);
    put(148, b"        ", 8);
    put(156, &[flag], 1);
    put(157, link, 100);
    put(257, b"ustar\x0000", 8);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// The dialect, by its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Gnu,
    Ustar,
    Star,
}

/// A header whose checksum holds.
pub(super) struct Header {
    block: [u8; BLOCK],
    format: Format,
}

impl Header {
    pub(super) fn new(block: [u8; BLOCK], at: u64) -> Result<Header, TarError> {
        let wrong = |why: &str| TarError::Header {
            at,
            why: why.to_owned(),
        };
        let stated = octal(&block[148..156]).ok_or_else(|| wrong("its checksum is not a number"))?;
        let sums = block
            .iter()
            .enumerate()
            .fold((0u64, 0i64), |(plain, signed), (i, byte)| {
                let byte = if (148..156).contains(&i) { b' ' } else { *byte };
                (plain + u64::from(byte), signed + i64::from(i8::from_ne_bytes([byte])))
            });
        if stated != sums.0 && i64::try_from(stated) != Ok(sums.1) {
            return Err(wrong("its checksum does not match"));
        }
        let format = match (&block[257..263], &block[263..265]) {
            (b"ustar\0", _) if &block[508..512] == b"tar\0" => Format::Star,
            (b"ustar\0", _) => Format::Ustar,
            (b"ustar ", b" \0") => Format::Gnu,
            _ => Format::V7,
        };
        Ok(Header { block, format })
    }

    pub(super) fn flag(&self) -> u8 {
        self.block[156]
    }

    /// The name, behind the prefix that ustar has for long ones.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.block[..100]);
        let prefix = match self.format {
            Format::Ustar => until_nul(&self.block[345..500]),
            Format::Star => until_nul(&self.block[345..476]),
            Format::V7 | Format::Gnu => b"",
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(&self.block[157..257]).to_vec()
    }

    pub(super) fn size(&self, at: u64) -> Result<u64, TarError> {
        let wrong = || TarError::Header {
            at,
            why: "its size is not a number in range".to_owned(),
        };
        let size = number(&self.block[124..136]).ok_or_else(wrong)?;
        u64::try_from(size).map_err(|_| wrong())
    }

    pub(super) fn mode(&self) -> Option<u32> {
        // The type bits that some writers leave in do no harm.
        number(&self.block[100..108]).map(|mode| (mode & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Option<u32> {
        number(&self.block[108..116])?.try_into().ok()
    }

    pub(super) fn gid(&self) -> Option<u32> {
        number(&self.block[116..124])?.try_into().ok()
    }

    pub(super) fn mtime(&self) -> Option<Time> {
        Some(Time {
            seconds: number(&self.block[136..148])?,
            nanos: 0,
        })
    }

    /// The first pairs of an old GNU sparse map, whether more blocks of them follow, and the real size.
    pub(super) fn gnu_sparse(&self) -> (&[u8], bool, Option<i64>) {
        (
            &self.block[386..482],
            self.block[482] != 0,
            number(&self.block[483..495]),
        )
    }

    pub(super) fn is_gnu(&self) -> bool {
        self.format == Format::Gnu
    }
}

/// A field up to its first NUL.
pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

/// A number: base-256 when the first bit is set (two's complement), else octal text.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return i64::try_from(octal(field)?).ok();
    }
    let negative = first & 0x40 != 0;
    let mut value: i64 = if negative { -1 } else { 0 };
    for (i, byte) in field.iter().enumerate() {
        // The flag bit itself is not part of the number; the sign bit below it is repeated in its place.
        let byte = match (i, negative) {
            (0, true) => *byte | 0x80,
            (0, false) => *byte & 0x7f,
            _ => *byte,
        };
        value = value.checked_mul(256)? | i64::from(byte);
    }
    Some(value)
}

/// Octal text between blanks and NULs; nothing is 0.
pub(super) fn octal(field: &[u8]) -> Option<u64> {
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let Some(start) = field.iter().position(|byte| !blank(byte)) else {
        return Some(0);
    };
    let digits = until_nul(&field[start..]);
    let digits = &digits[..digits.iter().rposition(|byte| !blank(byte)).map_or(0, |last| last + 1)];
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => Some(value.checked_mul(8)? + u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256_and_never_overflow() {
        let table: [(&[u8], Option<i64>); 11] = [
            (b"0000644\0", Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"", None),
            (b"12x", None),
            (b"9", None),
            (&[0x80, 0, 0, 1], Some(1)),
            (&[0x80, 0, 1, 0], Some(256)),
            (&[0xff, 0xff, 0xff, 0xfe], Some(-2)),
            (
                &[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255],
                Some(i64::MAX),
            ),
            (&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], None),
        ];
        for (field, want) in table {
            assert_eq!(number(field), want, "{field:?}");
        }
        assert_eq!(octal(b"7777777777777777777777777"), None);
    }
}
