//! Versioned, checked records: small values that must be whole or refused.
//!
//! ```text
//! offset  bytes
//! 0       4      "DUN1"
//! 4       2      kind (little endian), one number per type
//! 6       2      format of that kind, 1 at first
//! 8       4      length of the body
//! 12      8      first 8 bytes of SHA-256 over bytes 4..12 and the body
//! 20      …      body: postcard
//! ```

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Digest as _;

use super::{DiskError, durable};
use crate::types::bounds::RECORD_BYTES;
use crate::types::container::Extras;
use crate::types::network::Wiring;

const MAGIC: &[u8; 4] = b"DUN1";
const HEAD: usize = 20;

/// A type that is kept as a record.
pub trait Record: Serialize + DeserializeOwned {
    /// The number of the type; never reused.
    const KIND: u16;
    /// The newest format, 1 at first; raised with every change of the type's shape.
    const FORMAT: u16 = 1;

    /// Reads a body of an older format; formats that are not known are damage.
    fn from_older(format: u16, _body: &[u8]) -> Result<Self, String> {
        Err(format!("format {format} is not known"))
    }

    /// The body in the format before the newest one, which is what an agent on trial writes: the one before it must be able to
    /// read what it finds when it has to come back. `None` where the newest is the first.
    fn to_older(&self) -> Option<Vec<u8>> {
        None
    }
}

/// Whether this process is an agent on trial.
static ON_TRIAL: AtomicBool = AtomicBool::new(false);

/// Writes the formats before the newest ones from now on, or the newest.
pub fn write_older(on: bool) {
    ON_TRIAL.store(on, Ordering::Relaxed);
}

/// Whether [`write_older`] is on.
pub fn writes_older() -> bool {
    ON_TRIAL.load(Ordering::Relaxed)
}

/// The record's bytes.
pub fn encode<R: Record>(record: &R) -> Vec<u8> {
    let older = writes_older().then(|| record.to_older()).flatten();
    let format = if older.is_some() { R::FORMAT - 1 } else { R::FORMAT };
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&R::KIND.to_le_bytes());
    bytes.extend_from_slice(&format.to_le_bytes());
    bytes.extend_from_slice(&[0; HEAD - 8]);
    let mut bytes = match older {
        Some(body) => [bytes, body].concat(),
        // Writing to memory fails for no type that we have: they hold neither maps of unknown length nor unsized sequences.
        None => postcard::to_extend(record, bytes).unwrap_or_default(),
    };
    if bytes.len() < HEAD {
        return Vec::new();
    }
    let length = (bytes.len() - HEAD) as u32;
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    let sum = checksum(&bytes[4..12], &bytes[HEAD..]);
    bytes[12..HEAD].copy_from_slice(&sum);
    bytes
}

/// The record in `bytes`; trailing bytes are allowed (preallocated files). `path` is for errors.
pub fn decode<R: Record>(bytes: &[u8], path: &Path) -> Result<R, DiskError> {
    let damaged = |why: String| DiskError::Damaged {
        path: path.to_owned(),
        why,
    };
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else {
        return Err(damaged(format!("{} bytes are too few", bytes.len())));
    };
    if &head[..4] != MAGIC {
        return Err(damaged("it does not begin as a record".into()));
    }
    let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    let body = rest.get(..length).ok_or_else(|| damaged("it is cut off".into()))?;
    if checksum(&head[4..12], body) != head[12..] {
        return Err(damaged("the checksum does not fit".into()));
    }
    if short(4) != R::KIND {
        return Err(damaged(format!("it is of kind {}, expected {}", short(4), R::KIND)));
    }
    match short(6) {
        format if format > R::FORMAT => Err(DiskError::Newer {
            path: path.to_owned(),
            found: format,
            known: R::FORMAT,
        }),
        format if format == R::FORMAT => postcard::from_bytes(body).map_err(|e| damaged(e.to_string())),
        format => R::from_older(format, body).map_err(damaged),
    }
}

/// Bytes of the record that begins so, as its head says; without a whole head those of a head.
pub fn length(bytes: &[u8]) -> usize {
    let length = bytes.get(8..12).and_then(|length| length.try_into().ok());
    HEAD.saturating_add(length.map_or(0, |length| u32::from_le_bytes(length) as usize))
}

/// Writes a record durably.
pub fn write<R: Record>(path: &Path, record: &R) -> Result<(), DiskError> {
    let bytes = encode(record);
    if bytes.is_empty() || bytes.len() > RECORD_BYTES {
        return Err(DiskError::TooLarge {
            path: path.to_owned(),
            limit: RECORD_BYTES as u64,
        });
    }
    durable::write(path, &bytes)
}

/// Writes a record below the run root: whole or not at all, without syncing.
pub fn write_volatile<R: Record>(path: &Path, record: &R) -> Result<(), DiskError> {
    durable::write_volatile(path, &encode(record))
}

/// Reads a record.
pub fn read<R: Record>(path: &Path) -> Result<R, DiskError> {
    decode(&durable::read(path, RECORD_BYTES as u64)?, path)
}

/// Reads a record; `None` when there is none.
pub fn read_optional<R: Record>(path: &Path) -> Result<Option<R>, DiskError> {
    match read(path) {
        Ok(record) => Ok(Some(record)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

fn checksum(head: &[u8], body: &[u8]) -> [u8; 8] {
    let digest = sha2::Sha256::new().chain_update(head).chain_update(body).finalize();
    let mut sum = [0; 8];
    sum.copy_from_slice(&digest[..8]);
    sum
}

/// Numbers of the record types, so that none is used twice.
pub mod kinds {
    /// [`crate::types::container::ContainerRecord`]
    pub const CONTAINER: u16 = 1;
    /// [`crate::types::container::MonitorState`]
    pub const MONITOR_STATE: u16 = 2;
    /// [`crate::types::container::ExitRecord`]
    pub const EXIT: u16 = 3;
    /// The store's images.
    pub const IMAGE: u16 = 4;
    /// The store's layers.
    pub const LAYER: u16 = 5;
    /// The store's references.
    pub const REFERENCE: u16 = 6;
    /// The store's pins.
    pub const PIN: u16 = 7;
    /// Named volumes.
    pub const VOLUME: u16 = 8;
    /// The deployment journal's slots.
    pub const JOURNAL: u16 = 9;
    /// The last committed set.
    pub const COMMITTED: u16 = 10;
    /// Quarantined specifications.
    pub const QUARANTINE: u16 = 11;
    /// Final deployment records.
    pub const FINALS: u16 = 12;
    /// Trust: floors and keys.
    pub const TRUST: u16 = 13;
    /// Accepted documents by source.
    pub const DOCUMENT: u16 = 14;
    /// Command ids and answers of a session.
    pub const COMMANDS: u16 = 15;
    /// Boot counter.
    pub const BOOT: u16 = 16;
    /// Container's parameters that the engine keeps beside its record.
    pub const CONTAINER_EXTRA: u16 = 17;
    /// Store's own settings (id map, format).
    pub const STORE: u16 = 18;
    /// What a pull in flight keeps from garbage collection.
    pub const HOLD: u16 = 19;
    /// The keeper's control groups.
    pub const KEEPER: u16 = 21;
    /// How far a layer in flight is.
    pub const MARK: u16 = 20;
    /// The agent's own versions.
    pub const SLOTS: u16 = 22;
    /// What followed tags mean.
    pub const AUTO: u16 = 23;
    /// The fleet's keys.
    pub const KEYS: u16 = 24;
    /// The device's own keys.
    pub const DEVICE_KEYS: u16 = 25;
    /// Events that were not told.
    pub const EVENTS: u16 = 26;
    /// What a monitor does for its container's network.
    pub const NETWORK: u16 = 27;
    /// A set of apps by its digest.
    pub const APPS: u16 = 28;
}

impl Record for crate::types::container::ContainerRecord {
    const KIND: u16 = kinds::CONTAINER;
    const FORMAT: u16 = 3;

    /// The first format ended before the wiring and the extras, the second before the later ones of the extras.
    fn from_older(format: u16, body: &[u8]) -> Result<Self, String> {
        let none = (Wiring::default(), Extras::default());
        let none = postcard::to_allocvec(&none).map_err(|e| e.to_string())?;
        let missing = match format {
            1 => &none[..],
            2 => &none[none.len() - Extras::LATER..],
            _ => return Err(format!("format {format} is not known")),
        };
        postcard::from_bytes(&[body, missing].concat()).map_err(|e| e.to_string())
    }

    /// What the second format cannot say is not left out in silence.
    fn to_older(&self) -> Option<Vec<u8>> {
        if self.extras.says_later() {
            return None;
        }
        let mut body = postcard::to_allocvec(self).ok()?;
        body.truncate(body.len() - Extras::LATER);
        Some(body)
    }
}

impl Record for crate::types::container::MonitorState {
    const KIND: u16 = kinds::MONITOR_STATE;
}

impl Record for crate::types::container::ExitRecord {
    const KIND: u16 = kinds::EXIT;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Sample {
        text: String,
        number: u64,
    }

    impl Record for Sample {
        const KIND: u16 = 60_000;
    }

    fn sample() -> Sample {
        Sample {
            text: "text".into(),
            number: 7,
        }
    }

    #[test]
    fn any_flipped_bit_or_lost_byte_is_found() {
        let path = Path::new("sample");
        let bytes = encode(&sample());
        assert_eq!(decode::<Sample>(&bytes, path).unwrap(), sample());
        let mut longer = bytes.clone();
        longer.extend_from_slice(&[0; 100]);
        assert_eq!(decode::<Sample>(&longer, path).unwrap(), sample());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Sample>(&flipped, path).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode::<Sample>(&bytes[..length], path).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut bytes = encode(&sample());
        bytes[6] = 9;
        let sum = checksum(&bytes[4..12], &bytes[HEAD..]);
        bytes[12..HEAD].copy_from_slice(&sum);
        let error = decode::<Sample>(&bytes, Path::new("sample")).unwrap_err();
        assert!(matches!(error, DiskError::Newer { found: 9, known: 1, .. }));
    }

    /// `Sample` as a later dunlin has it.
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Later {
        text: String,
        number: u64,
        more: bool,
    }

    impl Record for Later {
        const KIND: u16 = 60_000;
        const FORMAT: u16 = 2;

        fn from_older(_: u16, body: &[u8]) -> Result<Later, String> {
            let Sample { text, number } = postcard::from_bytes(body).map_err(|e| e.to_string())?;
            let more = false;
            Ok(Later { text, number, more })
        }

        fn to_older(&self) -> Option<Vec<u8>> {
            let (text, number) = (self.text.clone(), self.number);
            postcard::to_extend(&Sample { text, number }, Vec::new()).ok()
        }
    }

    #[test]
    fn an_agent_on_trial_writes_what_the_one_before_it_reads() {
        let path = Path::new("sample");
        let later = Later {
            text: "text".into(),
            number: 7,
            more: true,
        };
        // Nothing else in this test program reads a format 2.
        write_older(true);
        let older = encode(&later);
        write_older(false);
        assert_eq!(decode::<Sample>(&older, path).unwrap(), sample());
        assert!(!decode::<Later>(&older, path).unwrap().more);
        let newest = encode(&later);
        assert!(matches!(decode::<Sample>(&newest, path), Err(DiskError::Newer { .. })));
        assert_eq!(decode::<Later>(&newest, path).unwrap(), later);
    }
}
