//! The score by which the kernel chooses whom to kill when memory runs out (proc_pid_oom_score_adj(5)).
//!
//! It is inherited. So the caller has it while it makes the process, and the file that is written is the host's: in the
//! container it might be anything, and does not belong to who has no rights on the host.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use super::error::RuntimeError;
use crate::sys::path;

/// The caller's own score, to be taken again.
#[derive(Debug)]
pub struct Score {
    file: File,
    own: String,
}

impl Score {
    /// Sets the caller's score, if one is asked for. Lowering it is refused to whoever is not root on the host, and then
    /// left out.
    pub fn set(score: Option<i32>) -> Result<Option<Self>, RuntimeError> {
        let Some(score) = score else { return Ok(None) };
        match set(score) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            done => done
                .map(Some)
                .map_err(RuntimeError::process(format!("set oom_score_adj to {score}"))),
        }
    }

    /// Gives the caller its own score back.
    pub fn restore(mut self) {
        // What the kernel has let it raise it lets it lower again.
        let _ = self
            .file
            .rewind()
            .and_then(|()| self.file.write_all(self.own.as_bytes()));
    }
}

fn set(score: i32) -> io::Result<Score> {
    let mut file = File::from(path::open_proc(Path::new("self/oom_score_adj"), path::O_RDWR)?);
    let mut own = String::new();
    file.read_to_string(&mut own)?;
    file.rewind()?;
    file.write_all(score.to_string().as_bytes())?;
    Ok(Score { file, own })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_set_and_given_back() {
        let read = || std::fs::read_to_string("/proc/self/oom_score_adj").expect("own score");
        let before = read();
        let raised = before.trim().parse::<i32>().expect("a number") + 1;
        let score = Score::set(Some(raised)).expect("raising is allowed").expect("set");
        assert_eq!(read().trim(), raised.to_string());
        score.restore();
        assert_eq!(read(), before);
        assert!(Score::set(None).expect("nothing to do").is_none());
    }
}
