//! A small record kept twice, each copy a file of its own: one of them may rot, be cut off or vanish.
//!
//! Both copies are written and synced, one after the other, with a count that grows; the good one with the higher count is
//! the newest. A power cut between the two leaves one of each.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::{self, Record};
use super::{DiskError, durable};

/// One copy.
#[derive(Serialize, serde::Deserialize)]
struct Copy<T> {
    count: u64,
    body: T,
}

/// What can be kept twice.
pub trait Body: Serialize + DeserializeOwned {
    /// The number of the record's type.
    const KIND: u16;
}

impl<T: Body> Record for Copy<T> {
    const KIND: u16 = T::KIND;
}

/// The two files: `PATH` and `PATH.2`.
#[derive(Debug)]
pub struct Doubled<T> {
    paths: [PathBuf; 2],
    count: u64,
    body: PhantomData<T>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// No copy was ever written.
    Nothing,
    /// The newest good copy.
    Good(T),
    /// There are copies, and none can be read; the text says why.
    Unreadable(String),
}

impl<T: Body> Doubled<T> {
    /// Reads both copies. A copy that is missing, damaged or older than the other one is replaced with the next write.
    pub fn open(path: &Path) -> Result<(Doubled<T>, Found<T>), DiskError> {
        let mut second = path.as_os_str().to_owned();
        second.push(".2");
        let paths = [path.to_owned(), PathBuf::from(second)];
        let mut newest: Option<Copy<T>> = None;
        let mut damage = Vec::new();
        for path in &paths {
            match record::read_optional::<Copy<T>>(path) {
                Ok(Some(copy)) if newest.as_ref().is_none_or(|other| other.count < copy.count) => newest = Some(copy),
                Ok(_) => {}
                // Written by a newer dunlin: not damage, and nothing may be built upon an older copy.
                Err(error @ DiskError::Newer { .. }) => return Err(error),
                Err(error) => damage.push(error.to_string()),
            }
        }
        let count = newest.as_ref().map_or(0, |copy| copy.count);
        let found = match newest {
            Some(copy) => Found::Good(copy.body),
            None if damage.is_empty() => Found::Nothing,
            None => Found::Unreadable(damage.join("; ")),
        };
        let doubled = Doubled {
            paths,
            count,
            body: PhantomData,
        };
        Ok((doubled, found))
    }

    /// Writes both copies; on disk when this returns. After an error either may be the old or the new one.
    pub fn write(&mut self, body: &T) -> Result<(), DiskError>
    where
        T: Clone,
    {
        let copy = Copy {
            count: self.count + 1,
            body: body.clone(),
        };
        for path in &self.paths {
            record::write(path, &copy)?;
        }
        self.count = copy.count;
        Ok(())
    }

    /// Sets unreadable copies aside as `….damaged`, for whoever wants to know what became of them.
    pub fn set_aside(&mut self) -> Result<(), DiskError> {
        for path in &self.paths {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".damaged");
            match durable::rename(path, Path::new(&aside)) {
                Err(error) if !error.is_missing() => return Err(error),
                _ => {}
            }
        }
        self.count = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
    struct Number(u64);

    impl Body for Number {
        const KIND: u16 = 999;
    }

    #[test]
    fn one_copy_may_be_lost_in_any_way_and_both_may_not() {
        let dir = std::env::temp_dir().join(format!("dunlin-doubled-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("trust");
        let second = dir.join("trust.2");
        let open = || Doubled::<Number>::open(&path).unwrap();
        let (mut doubled, found) = open();
        assert_eq!(found, Found::Nothing);
        doubled.write(&Number(1)).unwrap();
        let old = fs::read(&path).unwrap();
        doubled.write(&Number(2)).unwrap();
        let new = fs::read(&path).unwrap();
        assert_eq!(fs::read(&second).unwrap(), new);
        let mut rotten = new.clone();
        rotten[21] ^= 1;
        let cut = new[..10].to_vec();
        for bad in [Some(&old), Some(&rotten), Some(&cut), None] {
            for spoilt in [&path, &second] {
                match bad {
                    Some(bytes) => fs::write(spoilt, bytes).unwrap(),
                    None => fs::remove_file(spoilt).unwrap(),
                }
                let (mut doubled, found) = open();
                assert_eq!(found, Found::Good(Number(2)), "{bad:?}");
                doubled.write(&Number(2)).unwrap();
                assert_eq!(fs::read(&path).unwrap(), fs::read(&second).unwrap(), "mended");
                fs::write(&path, &new).unwrap();
                fs::write(&second, &new).unwrap();
            }
        }
        fs::write(&path, &rotten).unwrap();
        fs::remove_file(&second).unwrap();
        let (mut doubled, found) = open();
        assert!(matches!(found, Found::Unreadable(_)));
        doubled.set_aside().unwrap();
        assert_eq!(open().1, Found::Nothing);
        assert_eq!(fs::read(dir.join("trust.damaged")).unwrap(), rotten);
        fs::remove_dir_all(dir).unwrap();
    }
}
