//! What a monitor leaves on disk, and how others judge from it what state a container is in.

use std::path::Path;

use super::wire::{EXIT, STATE};
use crate::disk::{DiskError, record};
use crate::sys::process;
use crate::types::container::{ExitRecord, MonitorState, ProcessId, Status};
use crate::types::health::HealthStatus;
use crate::types::time::Unix;

/// Exit code of a run whose end nobody saw: as if it had been killed.
pub const UNSEEN_CODE: i32 = 137;
/// Text of such a run's exit record.
pub const UNSEEN: &str = "its end was not seen: its monitor was killed or the power failed";

/// The exit record that stands while a container runs, for the case that nobody is left to write the true one. Its
/// `finished` is 0.
pub fn unseen(started: Unix, restarts: u32) -> ExitRecord {
    ExitRecord {
        code: UNSEEN_CODE,
        signal: None,
        oom: false,
        started,
        finished: Unix(0),
        restarts,
        error: UNSEEN.into(),
        stop_asked: false,
    }
}

/// What is true of a container, whether its monitor lives or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The state.
    pub status: Status,
    /// What its monitor says, or said last since the boot.
    pub state: Option<MonitorState>,
    /// How its last run ended; [`unseen`] where nobody saw it.
    pub exit: Option<ExitRecord>,
    /// Its first process outlived the monitor and must be killed before anything else is done (the kernel does so itself a
    /// moment after the monitor's death).
    pub leftover: Option<ProcessId>,
}

impl Judgement {
    /// Judged health, [`HealthStatus::None`] for what does not run.
    pub fn health(&self) -> HealthStatus {
        match &self.state {
            Some(state) if self.status.is_live() => state.health,
            _ => HealthStatus::None,
        }
    }
}

/// Whether a process lives; one that ended and was not waited for does not.
pub fn lives(id: &ProcessId) -> bool {
    process::lives(id.pid, id.start)
}

/// Judges a container by its run directory (`<runroot>/c/ID`) and its data directory (`<data>/containers/ID`). Damaged
/// records count as an end that nobody saw; other errors of the disk are errors.
pub fn judge(run_dir: &Path, data_dir: &Path) -> Result<Judgement, DiskError> {
    let state: Option<MonitorState> = sound(record::read_optional(&run_dir.join(STATE)))?.flatten();
    if let Some(state) = state.as_ref().filter(|state| lives(&state.monitor)) {
        let exit = sound(record::read_optional(&data_dir.join(EXIT)))?.flatten();
        let exit = exit.filter(|exit: &ExitRecord| exit.finished != Unix(0));
        return Ok(Judgement {
            status: state.status,
            state: Some(state.clone()),
            exit,
            leftover: None,
        });
    }
    let started = state.as_ref().and_then(|state| state.started);
    // The copy in memory is written only where the disk refused.
    let exit = match record::read_optional::<ExitRecord>(&run_dir.join(EXIT)) {
        Ok(Some(exit)) => Some(Some(exit)),
        _ => sound(record::read_optional(&data_dir.join(EXIT)))?,
    };
    let leftover = state.as_ref().and_then(|state| state.container).filter(lives);
    let exit = match exit {
        Some(exit) => exit.filter(|exit| started.is_none_or(|started| exit.started >= started)),
        None => Some(unseen(started.unwrap_or_default(), 0)),
    };
    let exit = match (exit, &state) {
        (None, Some(state)) if state.started.is_some() => Some(unseen(started.unwrap_or_default(), state.restarts)),
        (exit, _) => exit,
    };
    let status = match &exit {
        None => Status::Created,
        Some(exit) if exit.finished == Unix(0) => Status::Dead,
        Some(_) => Status::Exited,
    };
    Ok(Judgement {
        status,
        state,
        exit,
        leftover,
    })
}

/// `None` for a damaged record.
fn sound<T>(read: Result<T, DiskError>) -> Result<Option<T>, DiskError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(DiskError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    struct Dirs(PathBuf);

    impl Dirs {
        fn new(name: &str) -> Dirs {
            let path = std::env::temp_dir().join(format!("dunlin-state-{}-{name}", std::process::id()));
            fs::create_dir_all(path.join("run")).unwrap();
            fs::create_dir_all(path.join("data")).unwrap();
            Dirs(path)
        }

        fn judge(&self) -> Judgement {
            judge(&self.0.join("run"), &self.0.join("data")).unwrap()
        }

        fn state(&self, state: &MonitorState) {
            record::write_volatile(&self.0.join("run/state"), state).unwrap();
        }

        fn exit(&self, place: &str, exit: &ExitRecord) {
            record::write_volatile(&self.0.join(place), exit).unwrap();
        }
    }

    impl Drop for Dirs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn ours() -> ProcessId {
        let pid = std::process::id() as i32;
        ProcessId {
            pid,
            start: process::start_time(pid).unwrap(),
        }
    }

    fn state(monitor: ProcessId, status: Status) -> MonitorState {
        MonitorState {
            monitor,
            container: None,
            status,
            started: Some(Unix(1_000)),
            health: HealthStatus::Healthy,
            failing_streak: 0,
            restarts: 2,
            stop_asked: false,
        }
    }

    fn ended(started: u64) -> ExitRecord {
        ExitRecord {
            code: 3,
            finished: Unix(started + 5),
            error: String::new(),
            ..unseen(Unix(started), 2)
        }
    }

    #[test]
    fn a_living_monitor_is_believed() {
        let dirs = Dirs::new("living");
        dirs.state(&state(ours(), Status::Paused));
        dirs.exit("data/exit", &unseen(Unix(1_000), 0));
        let judged = dirs.judge();
        assert_eq!(
            (judged.status, judged.exit.clone(), judged.health()),
            (Status::Paused, None, HealthStatus::Healthy)
        );
    }

    #[test]
    fn without_a_monitor_the_records_tell() {
        let gone = ProcessId { start: 1, ..ours() };
        let dirs = Dirs::new("gone");
        assert_eq!(dirs.judge().status, Status::Created);
        dirs.exit("data/exit", &ended(1_000));
        assert_eq!(dirs.judge().status, Status::Exited, "after a reboot");
        dirs.exit("data/exit", &unseen(Unix(1_000), 0));
        assert_eq!(dirs.judge().status, Status::Dead, "after a power cut");

        dirs.state(&state(gone, Status::Running));
        let judged = dirs.judge();
        assert_eq!(
            (judged.status, judged.exit.unwrap().code, judged.leftover),
            (Status::Dead, UNSEEN_CODE, None)
        );
        dirs.exit("data/exit", &ended(500));
        assert_eq!(dirs.judge().status, Status::Dead, "the record is of an earlier run");
        dirs.exit("data/exit", &ended(1_000));
        assert_eq!(dirs.judge().status, Status::Exited);
        fs::write(dirs.0.join("data/exit"), b"garbage").unwrap();
        assert_eq!(dirs.judge().status, Status::Dead, "damaged");
        dirs.exit("run/exit", &ended(1_000));
        assert_eq!(dirs.judge().exit.unwrap().code, 3, "the disk was full");
    }

    #[test]
    fn a_process_that_outlived_its_monitor_is_named() {
        let dirs = Dirs::new("leftover");
        let gone = ProcessId { start: 1, ..ours() };
        dirs.state(&MonitorState {
            container: Some(ours()),
            ..state(gone, Status::Running)
        });
        assert_eq!(dirs.judge().leftover, Some(ours()));
    }
}
