//! Deployments: states, reasons and records as PROTOCOL.md names them.

use super::digest::Digest;
use super::time::Unix;

/// Where a deployment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The document is valid and stored.
    Accepted,
    /// Something holds it back; the reason says what.
    Waiting,
    /// Bytes are fetched.
    Fetching,
    /// Digests are checked.
    Verifying,
    /// Everything that is needed is on disk and created.
    Staged,
    /// Old stops, new starts.
    Switching,
    /// Until every app was healthy once.
    Probing,
    /// Healthy time is counted.
    Soaking,
    /// Final: the new set is the last good one.
    Committed,
    /// The old set comes back.
    RollingBack,
    /// Final: the old set runs again.
    RolledBack,
    /// Final: it could not be carried out, or the old set fails too.
    Failed,
    /// Final: the document is not acceptable.
    Rejected,
    /// Final: a newer document took its place.
    Superseded,
}

impl State {
    /// Every state.
    pub const ALL: [State; 14] = [
        State::Accepted,
        State::Waiting,
        State::Fetching,
        State::Verifying,
        State::Staged,
        State::Switching,
        State::Probing,
        State::Soaking,
        State::Committed,
        State::RollingBack,
        State::RolledBack,
        State::Failed,
        State::Rejected,
        State::Superseded,
    ];

    /// Whether nothing follows.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            State::Committed | State::RolledBack | State::Failed | State::Rejected | State::Superseded
        )
    }

    /// Whether work is done in it that leads on by itself, in the good case at once; an operator waits in the others.
    pub const fn passes(self) -> bool {
        !self.is_final() && !matches!(self, State::Waiting | State::Soaking)
    }

    /// PROTOCOL's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Accepted => "ACCEPTED",
            State::Waiting => "WAITING",
            State::Fetching => "FETCHING",
            State::Verifying => "VERIFYING",
            State::Staged => "STAGED",
            State::Switching => "SWITCHING",
            State::Probing => "PROBING",
            State::Soaking => "SOAKING",
            State::Committed => "COMMITTED",
            State::RollingBack => "ROLLING_BACK",
            State::RolledBack => "ROLLED_BACK",
            State::Failed => "FAILED",
            State::Rejected => "REJECTED",
            State::Superseded => "SUPERSEDED",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why: the stable strings of PROTOCOL.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "PROTOCOL.md gives the meaning of each of these strings")]
pub enum Reason {
    SigInvalid,
    Stale,
    Conflict,
    Expired,
    Future,
    NotForMe,
    Schema,
    AgentTooOld,
    NoArch,
    ImageMissing,
    Auth,
    Net,
    Disk,
    Budget,
    LimitsUnavailable,
    Verify,
    StartFailed,
    Exited,
    Oom,
    Unhealthy,
    ProbeTimeout,
    RestartLoop,
    Reboots,
    SoakFailed,
    LockTimeout,
    Quarantined,
    Halted,
    RollbackFailed,
    ClockUntrusted,
    Interrupted,
    StaleSession,
    Busy,
    Internal,
    // What WAITING waits for.
    Wave,
    Window,
    Lock,
    Clock,
    Metered,
    NotBefore,
}

impl Reason {
    /// PROTOCOL's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::SigInvalid => "sig_invalid",
            Reason::Stale => "stale",
            Reason::Conflict => "conflict",
            Reason::Expired => "expired",
            Reason::Future => "future",
            Reason::NotForMe => "not_for_me",
            Reason::Schema => "schema",
            Reason::AgentTooOld => "agent_too_old",
            Reason::NoArch => "no_arch",
            Reason::ImageMissing => "image_missing",
            Reason::Auth => "auth",
            Reason::Net => "net",
            Reason::Disk => "disk",
            Reason::Budget => "budget",
            Reason::LimitsUnavailable => "limits_unavailable",
            Reason::Verify => "verify",
            Reason::StartFailed => "start_failed",
            Reason::Exited => "exited",
            Reason::Oom => "oom",
            Reason::Unhealthy => "unhealthy",
            Reason::ProbeTimeout => "probe_timeout",
            Reason::RestartLoop => "restart_loop",
            Reason::Reboots => "reboots",
            Reason::SoakFailed => "soak_failed",
            Reason::LockTimeout => "lock_timeout",
            Reason::Quarantined => "quarantined",
            Reason::Halted => "halted",
            Reason::RollbackFailed => "rollback_failed",
            Reason::ClockUntrusted => "clock_untrusted",
            Reason::Interrupted => "interrupted",
            Reason::StaleSession => "stale_session",
            Reason::Busy => "busy",
            Reason::Internal => "internal",
            Reason::Wave => "wave",
            Reason::Window => "window",
            Reason::Lock => "lock",
            Reason::Clock => "clock",
            Reason::Metered => "metered",
            Reason::NotBefore => "not_before",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reason with a text for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cause {
    /// Stable string.
    pub code: Reason,
    /// For people, one line.
    pub detail: String,
}

impl Cause {
    /// A cause; the text is cut to 512 bytes.
    pub fn new(code: Reason, detail: impl Into<String>) -> Cause {
        let mut detail: String = detail.into();
        if detail.len() > 512 {
            let end = (0..=509).rev().find(|i| detail.is_char_boundary(*i)).unwrap_or(0);
            detail.truncate(end);
            detail.push('…');
        }
        Cause { code, detail }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

/// One deployment as it is published and kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// The document's activity.
    pub activity: String,
    /// The document's generation.
    pub generation: u64,
    /// `d/DEVICE`, `g/GROUP` or `local`.
    pub source: String,
    /// Rollout id, where there is one.
    pub rollout: Option<String>,
    /// Where it is.
    pub state: State,
    /// Since when.
    pub since: Unix,
    /// Only grows, over all deployments of the device.
    pub seq: u64,
    /// Its apps.
    pub apps: Vec<AppRecord>,
    /// Bytes of the pulls.
    pub bytes: BytesMoved,
    /// Why, for waiting and for ends that are not COMMITTED.
    pub reason: Option<Cause>,
    /// 1 for the first try.
    pub attempt: u32,
}

/// One app of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AppRecord {
    /// Its name.
    pub name: String,
    /// Specification that ran before.
    pub from: Option<Version>,
    /// Specification that is to run; `None` when it is removed.
    pub to: Option<Version>,
    /// Where this app is.
    pub state: State,
    /// Why, where this app is the cause.
    pub reason: Option<Cause>,
}

/// A version of an app: its image by digest and its specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Version {
    /// Digest of the manifest; `None` before the tag was resolved.
    pub image: Option<Digest>,
    /// [`super::app::App::spec_digest`].
    pub spec: Digest,
}

/// Bytes of the pulls of one deployment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BytesMoved {
    /// From the registry.
    pub fetched: u64,
    /// Already here.
    pub reused: u64,
    /// Of all images.
    pub total: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_in_json_and_in_text() {
        for state in State::ALL {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
        for reason in [
            Reason::SigInvalid,
            Reason::NotForMe,
            Reason::LimitsUnavailable,
            Reason::Oom,
            Reason::RollbackFailed,
            Reason::NotBefore,
        ] {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{reason}\""));
        }
        assert!(Cause::new(Reason::Net, "ä".repeat(600)).detail.len() <= 512);
    }
}
