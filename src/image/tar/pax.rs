//! PAX records: `LENGTH KEY=VALUE\n`, one after another (pax(1), extended header).

use super::TarError;
use crate::sys::fs::Time;
use crate::types::bounds;

/// The records that matter to us.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// `GNU.sparse.KEY` without the prefix; offsets and sizes of form 0.0 are gathered in `map`.
    pub(super) sparse: Sparse,
    /// The first key whose value is no number in range; empty when all are.
    pub(super) bad: String,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) major: Option<Vec<u8>>,
    pub(super) minor: Option<Vec<u8>>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) blocks: Option<u64>,
    pub(super) map: Option<Vec<u8>>,
}

/// Parses the body of a PAX header that ends at byte `at`.
pub(super) fn parse(mut body: &[u8], at: u64) -> Result<Records, TarError> {
    let wrong = |why: &str| TarError::Pax {
        at,
        why: why.to_owned(),
    };
    let mut records = Records::default();
    let mut pairs: Vec<u8> = Vec::new();
    let mut numbers = 0usize;
    while !body.is_empty() {
        let space = body
            .iter()
            .take(12)
            .position(|b| *b == b' ')
            .ok_or_else(|| wrong("a record without a length"))?;
        let length = decimal(&body[..space]).ok_or_else(|| wrong("a record whose length is no number"))?;
        let length = usize::try_from(length)
            .ok()
            .filter(|l| *l > space + 2 && *l <= body.len());
        let length = length.ok_or_else(|| wrong("a record whose length is wrong"))?;
        let record = &body[space + 1..length];
        body = &body[length..];
        let Some((b'\n', record)) = record.split_last() else {
            return Err(wrong("a record without an end of line"));
        };
        let equals = record
            .iter()
            .position(|b| *b == b'=')
            .ok_or_else(|| wrong("a record without a value"))?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(wrong("a record with an unusable key"));
        }
        if matches!(key, b"path" | b"linkpath" | b"GNU.sparse.name") && value.contains(&0) {
            return Err(wrong("a path with a NUL"));
        }
        match key {
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let offset = key.ends_with(b"offset");
                if offset != numbers.is_multiple_of(2) || decimal(value).is_none() {
                    return Err(wrong("sparse offsets and sizes that do not alternate"));
                }
                if numbers > 0 {
                    pairs.push(b',');
                }
                pairs.extend_from_slice(value);
                numbers += 1;
            }
            _ => records.take(key, value),
        }
        if records.xattrs.len() > bounds::TAR_XATTRS {
            return Err(wrong("too many extended attributes"));
        }
    }
    if numbers > 0 {
        records.sparse.map = Some(pairs);
    }
    Ok(records)
}

impl Records {
    /// Keeps one record. An empty value means "as the plain header says".
    fn take(&mut self, key: &[u8], value: &[u8]) {
        if value.is_empty() {
            return;
        }
        let text = || Some(value.to_vec());
        let mut good = true;
        let mut number = |slot: &mut Option<u64>| {
            *slot = decimal(value);
            good = slot.is_some();
        };
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => number(&mut self.size),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => number(&mut self.sparse.size),
            b"GNU.sparse.numblocks" => number(&mut self.sparse.blocks),
            b"GNU.sparse.major" => self.sparse.major = text(),
            b"GNU.sparse.minor" => self.sparse.minor = text(),
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.map" => self.sparse.map = text(),
            b"uid" => {
                self.uid = decimal(value).and_then(|id| id.try_into().ok());
                good = self.uid.is_some();
            }
            b"gid" => {
                self.gid = decimal(value).and_then(|id| id.try_into().ok());
                good = self.gid.is_some();
            }
            b"mtime" => {
                self.mtime = time(value);
                good = self.mtime.is_some();
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        if !good && self.bad.is_empty() {
            self.bad = super::shown(key);
        }
    }
}

/// A decimal number without a sign.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Seconds with an optional sign and fraction; digits behind the ninth are cut.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..dot])?).ok()?;
    let fraction = text.get(dot + 1..).unwrap_or_default();
    let mut nanos = 0u32;
    for place in 0..9 {
        let digit = match fraction.get(place) {
            None => 0,
            Some(digit @ b'0'..=b'9') => u32::from(digit - b'0'),
            Some(_) => return None,
        };
        nanos = nanos * 10 + digit;
    }
    Some(match (negative, nanos) {
        (false, _) => Time { seconds, nanos },
        (true, 0) => Time {
            seconds: -seconds,
            nanos,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + rest.to_string().len();
        if length.to_string().len() != rest.to_string().len() {
            length += 1;
        }
        format!("{length} {key}={value}\n").into_bytes()
    }

    #[test]
    fn takes_what_matters_and_ignores_the_rest() {
        let body = [
            record("path", "a/ä"),
            record("mtime", "1700000000.25"),
            record("uid", "70000"),
            record("size", ""),
            record("SCHILY.xattr.user.x", "1\0=2"),
            record("comment", "whatever"),
        ]
        .concat();
        let records = parse(&body, 0).unwrap();
        assert_eq!(records.path.as_deref(), Some("a/ä".as_bytes()));
        assert_eq!(
            records.mtime,
            Some(Time {
                seconds: 1_700_000_000,
                nanos: 250_000_000
            })
        );
        assert_eq!((records.uid, records.size), (Some(70_000), None));
        assert_eq!(records.xattrs, vec![(b"user.x".to_vec(), b"1\0=2".to_vec())]);
        assert_eq!(
            time(b"-1.5"),
            Some(Time {
                seconds: -2,
                nanos: 500_000_000
            })
        );
    }

    #[test]
    fn refuses_malformed_records() {
        for body in [
            &b"5 a=b"[..],
            b"0 a=b\n",
            b"99 a=b\n",
            b"x a=b\n",
            b" a=b\n",
            b"99999999999999999999 a=b\n",
            b"6 ab=\n6 abc\n",
            b"5 =b\n",
            b"13 path=a\0b\n\n",
            b"22 GNU.sparse.offset=1\n23 GNU.sparse.offset=10\n",
        ] {
            assert!(parse(body, 0).is_err(), "{:?}", super::super::shown(body));
        }
    }
}
