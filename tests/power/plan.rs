//! What the cuts are: at which step of a deployment the machine loses its power, and a seed that says it all again.

use std::fmt;

/// What is steered to, and what a cut is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Pull,
    Stage,
    Switch,
    Probe,
    Soak,
    Commit,
    Rollback,
    Prune,
    /// Of the agent itself.
    SelfUpdate,
    /// Before the agent has said anything after a boot.
    Boot,
    /// Between deployments.
    Idle,
}

impl Phase {
    pub const ALL: [Phase; 11] = [
        Phase::Pull,
        Phase::Stage,
        Phase::Switch,
        Phase::Probe,
        Phase::Soak,
        Phase::Commit,
        Phase::Rollback,
        Phase::Prune,
        Phase::SelfUpdate,
        Phase::Boot,
        Phase::Idle,
    ];

    /// Those that cuts are steered to.
    pub const STEERED: [Phase; 9] = [
        Phase::Pull,
        Phase::Stage,
        Phase::Switch,
        Phase::Probe,
        Phase::Soak,
        Phase::Commit,
        Phase::Rollback,
        Phase::Prune,
        Phase::SelfUpdate,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Phase::Pull => "pull",
            Phase::Stage => "stage",
            Phase::Switch => "switch",
            Phase::Probe => "probe",
            Phase::Soak => "soak",
            Phase::Commit => "commit",
            Phase::Rollback => "rollback",
            Phase::Prune => "prune",
            Phase::SelfUpdate => "self-update",
            Phase::Boot => "boot",
            Phase::Idle => "idle",
        }
    }

    /// The phase in which a deployment in this state is.
    pub fn of_state(state: &str) -> Phase {
        match state {
            "VERIFYING" | "STAGED" => Phase::Stage,
            "SWITCHING" => Phase::Switch,
            "PROBING" => Phase::Probe,
            "SOAKING" => Phase::Soak,
            "ROLLING_BACK" => Phase::Rollback,
            "COMMITTED" | "ROLLED_BACK" | "FAILED" => Phase::Idle,
            _ => Phase::Pull,
        }
    }

    /// The state whose publication begins this phase, where a random moment of it can be met.
    fn begins_with(self) -> Option<(&'static str, u64)> {
        match self {
            Phase::Pull => Some(("FETCHING", 1500)),
            Phase::Switch => Some(("SWITCHING", 600)),
            Phase::Probe => Some(("PROBING", 300)),
            Phase::Soak => Some(("SOAKING", 1500)),
            Phase::Rollback => Some(("ROLLING_BACK", 600)),
            _ => None,
        }
    }

    /// Kill points of this phase (`dunlin::deploy::kill`).
    fn points(self) -> &'static [&'static str] {
        match self {
            Phase::Pull => &[
                "journal-accepted-before",
                "journal-accepted-half",
                "journal-accepted-after",
                "journal-fetching-before",
                "journal-fetching-half",
                "journal-fetching-after",
                "fetch-before",
                "fetch-before:2",
                "fetch-after",
                "fetch-after:2",
            ],
            Phase::Stage => &[
                "journal-verifying-before",
                "journal-verifying-half",
                "journal-verifying-after",
                "create-before",
                "create-after",
                "create-before:2",
                "create-after:2",
                "set-next-before",
                "set-next-after",
                "journal-staged-before",
                "journal-staged-half",
                "journal-staged-after",
            ],
            Phase::Switch => &[
                "journal-switching-before",
                "journal-switching-half",
                "journal-switching-after",
                "stop-before",
                "stop-after",
                "stop-after:2",
                "start-before",
                "start-after",
                "start-before:2",
                "start-after:2",
                "rename-away-before",
                "rename-away-after",
                "rename-in-before",
                "rename-in-after",
            ],
            Phase::Probe => &[
                "journal-probing-before",
                "journal-probing-half",
                "journal-probing-after",
            ],
            Phase::Soak => &[
                "journal-soaking-before",
                "journal-soaking-half",
                "journal-soaking-after",
            ],
            Phase::Commit => &[
                "set-commit-before",
                "set-commit-after",
                "history-final-before",
                "history-final-half",
                "history-final-after",
                "journal-final-before",
                "journal-final-half",
                "journal-final-after",
                "remove-before",
                "remove-after",
                "remove-after:2",
            ],
            Phase::Rollback => &[
                "journal-rolling-back-before",
                "journal-rolling-back-half",
                "journal-rolling-back-after",
                "history-quarantine-before",
                "history-quarantine-half",
                "history-quarantine-after",
                "stop-before:3",
                "stop-after:3",
                "stop-after:4",
                "start-before:3",
                "start-after:3",
                "start-after:4",
                "rename-away-after:3",
                "rename-in-after:3",
                "set-drop-before",
                "set-drop-after",
                "history-final-half",
                "journal-final-half",
            ],
            _ => &[],
        }
    }
}

/// When the power goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// When the agent stands still at this kill point.
    Point(&'static str),
    /// So many milliseconds after the agent said that the deployment is in this state.
    After(&'static str, u64),
    /// So many milliseconds into a prune that follows the deployment.
    Prune(u64),
    /// So many milliseconds into an update of the agent that follows the deployment: it is brought, judged, tried, and stays.
    Renew(u64),
    /// So many milliseconds after the document was sent.
    Sent(u64),
    /// So many milliseconds after the agent's start, whatever the cut before this one had left to be done.
    Boot(u64),
}

/// What a machine's clock says until it is online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Right,
    /// As of a board without a battery.
    Beginning,
    /// Ten years ahead.
    Ahead,
}

/// One cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub seed: Seed,
    /// Whether the new version is healthy.
    pub good: bool,
    /// Whether the boot before the deployment is without a network until all apps run.
    pub offline: bool,
    /// The clock of such a boot.
    pub clock: Clock,
    /// Whether the machine boots from its kernel's start on, and not from where it would first look at its disk.
    pub cold: bool,
    /// Whether the images are made to be fetched again.
    pub pruned: bool,
    pub moment: Moment,
}

/// What makes a cut the same again: a number, and what it is steered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    pub number: u64,
    pub phase: Option<Phase>,
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.phase.map_or("random", Phase::word))
    }
}

impl Seed {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Seed> {
        let (number, word) = text.split_once('-')?;
        let phase = Phase::STEERED.into_iter().find(|phase| phase.word() == word);
        (phase.is_some() || word == "random").then_some(Seed {
            number: number.parse().ok()?,
            phase,
        })
    }

    /// The cut of this seed.
    pub fn cut(self) -> Cut {
        let mut dice = Dice(self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        dice.below(2);
        let moment = match self.phase {
            None if dice.below(3) == 0 => Moment::Boot(dice.below(5000)),
            None if dice.below(8) == 0 => Moment::Prune(dice.below(2500)),
            None => Moment::Sent(dice.below(9000)),
            Some(Phase::Prune) => Moment::Prune(dice.below(1500)),
            Some(Phase::SelfUpdate) => Moment::Renew(match dice.below(3) {
                // While it is brought and judged, while it is started, and while it proves itself.
                0 => dice.below(1200),
                1 => 1000 + dice.below(4000),
                _ => dice.below(25_000),
            }),
            Some(phase) => match phase.begins_with() {
                Some((state, ms)) if dice.below(3) == 0 => Moment::After(state, dice.below(ms)),
                _ => {
                    let points = phase.points();
                    Moment::Point(points[dice.below(points.len() as u64) as usize])
                }
            },
        };
        let good = match self.phase {
            Some(Phase::Rollback) => false,
            Some(Phase::Soak | Phase::Commit | Phase::Prune | Phase::SelfUpdate) => true,
            Some(_) => dice.below(3) > 0,
            None => dice.below(2) == 0,
        };
        Cut {
            seed: self,
            good,
            offline: dice.below(4) == 0,
            cold: dice.below(20) == 0,
            pruned: self.phase == Some(Phase::Pull) || dice.below(2) == 0,
            clock: [Clock::Right, Clock::Beginning, Clock::Ahead][dice.below(3) as usize],
            moment,
        }
    }
}

/// Cuts that each phase has at least, when there are enough.
const EACH: usize = 30;

/// The seeds of so many cuts: each phase its share of one in 25 (of few cuts one in ten, up to 30), in a random order, the rest at
/// random moments.
pub fn seeds(count: usize, first: u64) -> Vec<Seed> {
    let each = count.div_ceil(25).max(EACH.min(count / 10));
    let each = if count < Phase::STEERED.len() { 0 } else { each };
    let steered = Phase::STEERED
        .into_iter()
        .flat_map(|phase| std::iter::repeat_n(Some(phase), each));
    let mut phases: Vec<Option<Phase>> = steered.take(count).collect();
    phases.resize(count, None);
    let mut dice = Dice(first | 1);
    for at in (1..count).rev() {
        phases.swap(at, dice.below(at as u64 + 1) as usize);
    }
    let numbered = phases.into_iter().zip(first..);
    numbered.map(|(phase, number)| Seed { number, phase }).collect()
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}
