//! What a bundle says about scheduling: policy, priority of input and output, processors, memory nodes, execution domain.
//! Read and checked before anything is made (pure), then done by the process to itself.

use super::error::RuntimeError;
use crate::sys::schedule::{self, Scheduling};
use crate::types::oci::runtime::{Linux, LinuxIoPriority, LinuxMemoryPolicy, LinuxPersonality, Process, Scheduler};

/// Largest number of a processor or memory node that is read.
const NUMBER_MAX: usize = 8191;

const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", DEADLINE),
];
const DEADLINE: u32 = 6;

const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

const IO_CLASSES: [(&str, u16); 3] = [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

const MEMORY_MODES: [(&str, i32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

const MEMORY_FLAGS: [(&str, i32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

const DOMAINS: [(&str, u32); 2] = [("LINUX", 0), ("LINUX32", 8)];

fn by_name<T: Copy>(table: &[(&str, T)], field: &str, name: &str) -> Result<T, RuntimeError> {
    let found = table.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| RuntimeError::spec(field, format!("`{name}` is not known")))
}

/// What is asked of the scheduler for one process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Schedule {
    scheduling: Option<Scheduling>,
    io: Option<(u16, u16)>,
    memory: Option<(i32, Vec<u64>)>,
    personality: Option<u32>,
}

impl Schedule {
    /// Of a process in a container with these settings.
    pub fn of(process: &Process, linux: Option<&Linux>) -> Result<Self, RuntimeError> {
        let memory = linux.and_then(|linux| linux.memory_policy.as_ref());
        let personality = linux.and_then(|linux| linux.personality.as_ref());
        Ok(Schedule {
            scheduling: process.scheduler.as_ref().map(scheduling).transpose()?,
            io: process.io_priority.as_ref().map(io_priority).transpose()?,
            memory: memory.map(memory_policy).transpose()?,
            personality: personality.map(domain).transpose()?,
        })
    }

    /// Sets all of it for the calling process. Some of it needs the rights of root, which it must still have.
    pub fn apply(&self) -> Result<(), RuntimeError> {
        if let Some(scheduling) = &self.scheduling {
            schedule::set_scheduling(scheduling).map_err(RuntimeError::process("set `process.scheduler`"))?;
        }
        if let Some((class, priority)) = self.io {
            schedule::set_io_priority(class, priority).map_err(RuntimeError::process("set `process.ioPriority`"))?;
        }
        if let Some((mode, nodes)) = &self.memory {
            schedule::set_memory_policy(*mode, nodes).map_err(RuntimeError::process("set `linux.memoryPolicy`"))?;
        }
        if let Some(domain) = self.personality {
            schedule::set_personality(domain).map_err(RuntimeError::process("set `linux.personality`"))?;
        }
        Ok(())
    }
}

fn scheduling(asked: &Scheduler) -> Result<Scheduling, RuntimeError> {
    let wrong = |problem: String| Err(RuntimeError::spec("process.scheduler", problem));
    let policy = by_name(&POLICIES, "process.scheduler.policy", &asked.policy)?;
    let real_time = matches!(asked.policy.as_str(), "SCHED_FIFO" | "SCHED_RR");
    let mut flags = 0;
    for name in asked.flags.iter().flatten() {
        flags |= by_name(&FLAGS, "process.scheduler.flags", name)?;
    }
    let (nice, priority) = (asked.nice.unwrap_or(0), asked.priority.unwrap_or(0));
    if !(-20..=19).contains(&nice) {
        return wrong(format!("nice {nice} is not in -20 to 19"));
    }
    if !real_time && priority != 0 {
        return wrong(format!("priority {priority} is for SCHED_FIFO and SCHED_RR only"));
    }
    if real_time && !(1..=99).contains(&priority) {
        return wrong(format!("priority {priority} is not in 1 to 99"));
    }
    let times = [asked.runtime, asked.deadline, asked.period].map(Option::unwrap_or_default);
    if policy != DEADLINE && times != [0; 3] {
        return wrong("runtime, deadline and period are for SCHED_DEADLINE only".to_owned());
    }
    let [runtime, deadline, period] = times;
    Ok(Scheduling {
        policy,
        flags,
        nice,
        priority: priority.unsigned_abs(),
        runtime,
        deadline,
        period,
    })
}

fn io_priority(asked: &LinuxIoPriority) -> Result<(u16, u16), RuntimeError> {
    let class = by_name(&IO_CLASSES, "process.ioPriority.class", &asked.class)?;
    match u16::try_from(asked.priority) {
        Ok(priority @ 0..=7) => Ok((class, priority)),
        _ => Err(RuntimeError::spec(
            "process.ioPriority.priority",
            format!("{} is not in 0 to 7", asked.priority),
        )),
    }
}

fn memory_policy(asked: &LinuxMemoryPolicy) -> Result<(i32, Vec<u64>), RuntimeError> {
    let mut mode = by_name(&MEMORY_MODES, "linux.memoryPolicy.mode", &asked.mode)?;
    for name in asked.flags.iter().flatten() {
        mode |= by_name(&MEMORY_FLAGS, "linux.memoryPolicy.flags", name)?;
    }
    let nodes = asked.nodes.as_deref().filter(|list| !list.is_empty());
    let nodes = nodes
        .map(|list| numbers("linux.memoryPolicy.nodes", list))
        .transpose()?;
    Ok((mode, nodes.unwrap_or_default()))
}

fn domain(asked: &LinuxPersonality) -> Result<u32, RuntimeError> {
    if let Some(flag) = asked.flags.iter().flatten().next() {
        let problem = format!("`{flag}`: the specification defines none");
        return Err(RuntimeError::spec("linux.personality.flags", problem));
    }
    by_name(&DOMAINS, "linux.personality.domain", &asked.domain)
}

/// The processors of a process that joins: before it enters the container's group, and from then on.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Affinity {
    initial: Option<Vec<u64>>,
    last: Option<Vec<u64>>,
}

impl Affinity {
    /// Of a process.
    pub fn of(process: &Process) -> Result<Self, RuntimeError> {
        let Some(asked) = &process.exec_cpu_affinity else {
            return Ok(Affinity::default());
        };
        let set = |field: &str, list: &Option<String>| {
            let list = list.as_deref().filter(|list| !list.is_empty());
            list.map(|list| numbers(field, list)).transpose()
        };
        Ok(Affinity {
            initial: set("process.execCPUAffinity.initial", &asked.initial)?,
            last: set("process.execCPUAffinity.final", &asked.last)?,
        })
    }

    /// For whoever makes the process: it inherits this.
    pub fn begin(&self) -> Result<(), RuntimeError> {
        set(self.initial.as_deref(), "process.execCPUAffinity.initial")
    }

    /// For the process itself, inside its group.
    pub fn settle(&self) -> Result<(), RuntimeError> {
        set(self.last.as_deref(), "process.execCPUAffinity.final")
    }
}

fn set(processors: Option<&[u64]>, field: &str) -> Result<(), RuntimeError> {
    let Some(processors) = processors else { return Ok(()) };
    schedule::set_processors(processors).map_err(RuntimeError::process(format!("set `{field}`")))
}

/// A list of numbers, `0-3,7`, as a set of bits.
fn numbers(field: &str, list: &str) -> Result<Vec<u64>, RuntimeError> {
    let wrong = || RuntimeError::spec(field, format!("`{list}` is no list of numbers as `0-3,7`"));
    let mut set = Vec::new();
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number <= NUMBER_MAX);
        let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
        if first > last {
            return Err(wrong());
        }
        for number in first..=last {
            let word = number / 64;
            if set.len() <= word {
                set.resize(word + 1, 0);
            }
            if let Some(bits) = set.get_mut(word) {
                *bits |= 1_u64 << (number % 64);
            }
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(process: &str, linux: &str) -> Result<Schedule, RuntimeError> {
        let process = format!(r#"{{"user":{{}},"cwd":"/"{process}}}"#);
        let process: Process = serde_json::from_str(&process).expect("a process");
        let linux: Linux = serde_json::from_str(&format!("{{{linux}}}")).expect("settings");
        Schedule::of(&process, Some(&linux))
    }

    #[test]
    fn words_become_numbers() {
        let rows = [
            (
                r#","scheduler":{"policy":"SCHED_BATCH","nice":5}"#,
                "",
                Schedule {
                    scheduling: Some(Scheduling {
                        policy: 3,
                        nice: 5,
                        ..Scheduling::default()
                    }),
                    ..Schedule::default()
                },
            ),
            (
                r#","scheduler":{"policy":"SCHED_RR","priority":7,"flags":["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_KEEP_PARAMS"]}"#,
                "",
                Schedule {
                    scheduling: Some(Scheduling {
                        policy: 2,
                        priority: 7,
                        flags: 0x11,
                        ..Scheduling::default()
                    }),
                    ..Schedule::default()
                },
            ),
            (
                r#","scheduler":{"policy":"SCHED_DEADLINE","runtime":1,"deadline":2,"period":3}"#,
                "",
                Schedule {
                    scheduling: Some(Scheduling {
                        policy: 6,
                        runtime: 1,
                        deadline: 2,
                        period: 3,
                        ..Scheduling::default()
                    }),
                    ..Schedule::default()
                },
            ),
            (
                r#","ioPriority":{"class":"IOPRIO_CLASS_BE","priority":7}"#,
                r#""personality":{"domain":"LINUX32"}"#,
                Schedule {
                    io: Some((2, 7)),
                    personality: Some(8),
                    ..Schedule::default()
                },
            ),
            (
                "",
                r#""memoryPolicy":{"mode":"MPOL_BIND","nodes":"0,65","flags":["MPOL_F_STATIC_NODES"]}"#,
                Schedule {
                    memory: Some((2 | 1 << 15, vec![1, 2])),
                    ..Schedule::default()
                },
            ),
        ];
        for (process, linux, expected) in rows {
            assert_eq!(of(process, linux).expect(process), expected, "{process} {linux}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let rows = [
            (
                r#","scheduler":{"policy":"SCHED_FAIR"}"#,
                "",
                "process.scheduler.policy",
            ),
            (
                r#","scheduler":{"policy":"SCHED_OTHER","nice":20}"#,
                "",
                "process.scheduler",
            ),
            (
                r#","scheduler":{"policy":"SCHED_OTHER","priority":1}"#,
                "",
                "process.scheduler",
            ),
            (r#","scheduler":{"policy":"SCHED_FIFO"}"#, "", "process.scheduler"),
            (
                r#","scheduler":{"policy":"SCHED_FIFO","priority":100}"#,
                "",
                "process.scheduler",
            ),
            (
                r#","scheduler":{"policy":"SCHED_IDLE","period":1}"#,
                "",
                "process.scheduler",
            ),
            (
                r#","scheduler":{"policy":"SCHED_IDLE","flags":["X"]}"#,
                "",
                "process.scheduler.flags",
            ),
            (
                r#","ioPriority":{"class":"BE","priority":1}"#,
                "",
                "process.ioPriority.class",
            ),
            (
                r#","ioPriority":{"class":"IOPRIO_CLASS_RT","priority":8}"#,
                "",
                "process.ioPriority.priority",
            ),
            ("", r#""personality":{"domain":"BSD"}"#, "linux.personality.domain"),
            (
                "",
                r#""personality":{"domain":"LINUX","flags":["X"]}"#,
                "linux.personality.flags",
            ),
            ("", r#""memoryPolicy":{"mode":"MPOL_X"}"#, "linux.memoryPolicy.mode"),
            (
                "",
                r#""memoryPolicy":{"mode":"MPOL_BIND","nodes":"x"}"#,
                "linux.memoryPolicy.nodes",
            ),
        ];
        for (process, linux, expected) in rows {
            match of(process, linux).expect_err(expected) {
                RuntimeError::Spec { field, .. } => assert_eq!(field, expected),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn lists_of_numbers_are_sets() {
        let rows = [
            ("0", vec![1]),
            ("0-3,7", vec![0x8f]),
            ("1, 64", vec![2, 1]),
            ("63-64", vec![1 << 63, 1]),
        ];
        for (list, expected) in rows {
            assert_eq!(numbers("x", list).expect(list), expected, "{list}");
        }
        for list in ["", "a", "3-1", "1-", "-1", "1,,2", "9000", "0-99999999999999999999"] {
            assert!(numbers("x", list).is_err(), "{list}");
        }
    }
}
