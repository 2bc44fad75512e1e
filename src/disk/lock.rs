//! Locks between processes: a lock is a value that functions take; the kernel frees it when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::DiskError;

/// A held lock (flock(2)); freed when dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Whether others may hold the same lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Others may share it.
    Shared,
    /// Nobody else holds it.
    Exclusive,
}

impl From<Lock> for OwnedFd {
    /// The lock as the descriptor that holds it, to be kept across exec.
    fn from(lock: Lock) -> OwnedFd {
        lock.file.into()
    }
}

impl Lock {
    /// Takes the lock on the file at `path`, made when missing; waits at most `wait`.
    pub fn take(path: &Path, mode: Mode, wait: Duration) -> Result<Lock, DiskError> {
        let deadline = Instant::now() + wait;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(lock) = Lock::try_take(path, mode)? {
                return Ok(lock);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(DiskError::Locked {
                    path: path.to_owned(),
                    seconds: wait.as_secs(),
                });
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Whether the file that is locked is still the one at `path`.
    pub fn is_at(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let id = |data: std::fs::Metadata| (data.dev(), data.ino());
        match (self.file.metadata(), std::fs::metadata(path)) {
            (Ok(held), Ok(there)) => id(held) == id(there),
            _ => false,
        }
    }

    /// The descriptor that holds the lock; whoever has a copy of it holds the lock too.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Takes the lock if it is free.
    pub fn try_take(path: &Path, mode: Mode) -> Result<Option<Lock>, DiskError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(DiskError::io("open lock", path))?;
        let taken = match mode {
            Mode::Shared => file.try_lock_shared(),
            Mode::Exclusive => file.try_lock(),
        };
        match taken {
            Ok(()) => Ok(Some(Lock { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(DiskError::io("lock", path)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_lock_keeps_others_out_until_dropped() {
        let path = std::env::temp_dir().join(format!("dunlin-lock-{}", std::process::id()));
        let held = Lock::take(&path, Mode::Exclusive, Duration::ZERO).unwrap();
        assert!(Lock::try_take(&path, Mode::Shared).unwrap().is_none());
        let error = Lock::take(&path, Mode::Exclusive, Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, DiskError::Locked { .. }));
        drop(held);
        let one = Lock::try_take(&path, Mode::Shared).unwrap();
        let two = Lock::try_take(&path, Mode::Shared).unwrap();
        assert!(one.is_some() && two.is_some());
        std::fs::remove_file(&path).unwrap();
    }
}
