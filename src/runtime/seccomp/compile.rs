//! OCI seccomp settings → BPF.
//!
//! The filter tells the interface first (an unknown one kills the process), then finds the call by binary search over
//! ranges of numbers with the same outcome, so that a call costs about eight comparisons. Rules on arguments are tried in
//! the order of the document before a rule without any; among rules of one kind the first wins.

use super::{Abi, Program, SeccompError};
use crate::sys::seccomp::{
    AND, INSTRUCTIONS_MAX, Instruction, JUMP, JUMP_EQ, JUMP_GE, JUMP_GT, LOAD, RETURN, flag, verdict,
};
use crate::types::oci::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

/// The largest error number that the kernel lets a filter return (`MAX_ERRNO`).
const ERRNO_MAX: u32 = 4095;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// Numbers from here on are x32's (`__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;
/// Offsets in `struct seccomp_data`, little endian.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Compiles `seccomp` for a kernel whose own interface is `native`.
///
/// Names that no interface has are passed over, as are architectures that this kernel cannot run; the native one is always
/// filtered. A rule that names one argument twice matches if any of its conditions does, as runc reads it.
pub fn compile(seccomp: &LinuxSeccomp, native: Abi) -> Result<Program, SeccompError> {
    if seccomp.default_action == LinuxSeccompAction::Notify {
        return Err(SeccompError::NotifyByDefault);
    }
    let default = outcome("default", seccomp.default_action, seccomp.default_errno_ret)?;
    let mut instructions = vec![load(ARCH)];
    for abi in interfaces(seccomp, native) {
        let calls = collect(seccomp, abi)?;
        let body = filter(abi, calls, default);
        instructions.push(jump(JUMP_EQ, abi.audit(), 1, 0));
        instructions.push(jump(JUMP, body.len() as u32, 0, 0));
        instructions.extend(body);
    }
    instructions.push(give(verdict::KILL_PROCESS));
    if instructions.len() > INSTRUCTIONS_MAX {
        return Err(SeccompError::TooLong {
            instructions: instructions.len(),
            max: INSTRUCTIONS_MAX,
        });
    }
    Ok(Program {
        instructions,
        flags: flags(seccomp)?,
    })
}

/// What one call of one interface leads to.
struct Call {
    number: u32,
    /// Conditions that must all hold, and the verdict then.
    cases: Vec<(Vec<LinuxSeccompArg>, u32)>,
    /// The verdict when no case matches.
    otherwise: Option<u32>,
}

/// A range of call numbers begins at `start` and ends where the next begins.
struct Range {
    start: u32,
    body: Vec<Instruction>,
}

fn interfaces(seccomp: &LinuxSeccomp, native: Abi) -> Vec<Abi> {
    let companion = match native {
        Abi::X86_64 => Some((Arch::X86, Abi::X86)),
        Abi::Aarch64 => Some((Arch::Arm, Abi::Arm)),
        Abi::X86 | Abi::Arm => None,
    };
    let listed = |arch: Arch| seccomp.architectures.iter().flatten().any(|known| *known == arch);
    let companion = companion.filter(|(arch, _)| listed(*arch)).map(|(_, abi)| abi);
    std::iter::once(native).chain(companion).collect()
}

/// The settings' rules for `abi`, sorted by call number.
fn collect(seccomp: &LinuxSeccomp, abi: Abi) -> Result<Vec<Call>, SeccompError> {
    let mut rules = Vec::new();
    let mut named = Vec::new();
    for rule in seccomp.syscalls.iter().flatten() {
        let first = rule.names.first().map_or("", String::as_str);
        let verdict = outcome(first, rule.action, rule.errno_ret)?;
        let conditions = rule.args.as_deref().unwrap_or_default();
        if let Some(bad) = conditions.iter().find(|condition| condition.index > 5) {
            return Err(SeccompError::Argument {
                call: first.to_owned(),
                index: bad.index,
            });
        }
        named.extend(
            rule.names
                .iter()
                .filter_map(|name| Some((abi.number(name)?, rules.len()))),
        );
        rules.push((conditions, verdict));
    }
    // By number, and for each number in the order of the rules.
    named.sort_unstable();
    let mut calls: Vec<Call> = Vec::with_capacity(named.len());
    for (number, at) in named {
        let (conditions, verdict) = rules[at];
        if calls.last().is_none_or(|last| last.number != number) {
            calls.push(Call {
                number,
                cases: Vec::new(),
                otherwise: None,
            });
        }
        let Some(call) = calls.last_mut() else { continue };
        if conditions.is_empty() {
            call.otherwise = call.otherwise.or(Some(verdict));
        } else if repeats(conditions) {
            call.cases
                .extend(conditions.iter().map(|condition| (vec![*condition], verdict)));
        } else {
            call.cases.push((conditions.to_vec(), verdict));
        }
    }
    Ok(calls)
}

/// True if two conditions look at the same argument.
fn repeats(conditions: &[LinuxSeccompArg]) -> bool {
    conditions
        .iter()
        .enumerate()
        .any(|(at, condition)| conditions[..at].iter().any(|other| other.index == condition.index))
}

/// The verdict of an action with its `errnoRet`.
fn outcome(call: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    let number = errno.unwrap_or(EPERM);
    if number > ERRNO_MAX {
        return Err(SeccompError::ErrorNumber {
            call: call.to_owned(),
            value: number,
            max: ERRNO_MAX,
        });
    }
    Ok(match action {
        LinuxSeccompAction::Kill | LinuxSeccompAction::KillThread => verdict::KILL_THREAD,
        LinuxSeccompAction::KillProcess => verdict::KILL_PROCESS,
        LinuxSeccompAction::Trap => verdict::TRAP,
        LinuxSeccompAction::Errno => verdict::ERRNO | number,
        LinuxSeccompAction::Notify => verdict::NOTIFY,
        LinuxSeccompAction::Trace => verdict::TRACE | number,
        LinuxSeccompAction::Log => verdict::LOG,
        LinuxSeccompAction::Allow => verdict::ALLOW,
    })
}

fn flags(seccomp: &LinuxSeccomp) -> Result<u32, SeccompError> {
    let mut flags = 0;
    for named in seccomp.flags.iter().flatten() {
        flags |= match named {
            LinuxSeccompFilterFlag::Log => flag::LOG,
            LinuxSeccompFilterFlag::SpecAllow => flag::SPEC_ALLOW,
            LinuxSeccompFilterFlag::WaitKillableRecv => flag::WAIT_KILLABLE_RECV,
            // The filter is loaded while there is one thread.
            LinuxSeccompFilterFlag::Tsync => 0,
        };
    }
    let notifies = seccomp
        .syscalls
        .iter()
        .flatten()
        .any(|rule| rule.action == LinuxSeccompAction::Notify);
    match (notifies, &seccomp.listener_path) {
        (true, None) => Err(SeccompError::NoListener),
        (true, Some(_)) => Ok(flags | flag::NEW_LISTENER),
        // The kernel refuses the flag without a listener.
        (false, _) => Ok(flags & !flag::WAIT_KILLABLE_RECV),
    }
}

/// The part of the filter for one interface.
fn filter(abi: Abi, calls: Vec<Call>, default: u32) -> Vec<Instruction> {
    let mut ranges = vec![Range {
        start: 0,
        body: vec![give(default)],
    }];
    let mut begin = |start: u32, body: Vec<Instruction>| {
        if ranges.last().is_some_and(|last| last.start == start) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|last| last.body != body) {
            ranges.push(Range { start, body });
        }
    };
    for call in calls {
        let mut body = Vec::new();
        for (conditions, verdict) in &call.cases {
            body.extend(case(abi, conditions, *verdict));
        }
        body.push(give(call.otherwise.unwrap_or(default)));
        begin(call.number, body);
        begin(call.number + 1, vec![give(default)]);
    }
    let mut code = vec![load(NUMBER)];
    if abi == Abi::X86_64 {
        code.push(jump(JUMP_GE, X32, 0, 1));
        code.push(give(verdict::ERRNO | ENOSYS));
    }
    search(&ranges, &mut code);
    code
}

/// Binary search for the call's number, which is loaded, over `ranges`.
fn search(ranges: &[Range], code: &mut Vec<Instruction>) {
    let middle = ranges.len() / 2;
    if middle == 0 {
        code.extend(ranges.iter().flat_map(|range| &range.body));
        return;
    }
    let (below, above) = ranges.split_at(middle);
    let mut lower = Vec::new();
    search(below, &mut lower);
    match u8::try_from(lower.len()) {
        Ok(skip) => code.push(jump(JUMP_GE, above[0].start, skip, 0)),
        Err(_) => {
            code.push(jump(JUMP_GE, above[0].start, 0, 1));
            code.push(jump(JUMP, lower.len() as u32, 0, 0));
        }
    }
    code.extend(lower);
    search(above, code);
}

/// Where a comparison inside a condition goes on.
#[derive(Clone, Copy)]
enum To {
    Next,
    /// The condition holds.
    Holds,
    /// It does not, and with it the case.
    Fails,
}

/// One instruction of a condition, jumps not yet resolved.
struct Step(u16, u32, To, To);

/// `verdict` if all conditions hold, else on to what follows.
fn case(abi: Abi, conditions: &[LinuxSeccompArg], verdict: u32) -> Vec<Instruction> {
    let steps: Vec<Vec<Step>> = conditions.iter().map(|condition| steps(abi, condition)).collect();
    // At most six conditions of six steps and the verdict: every jump fits eight bits.
    let end = steps.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(end);
    let mut holds = 0;
    for condition in steps {
        holds += condition.len();
        for Step(operation, operand, yes, no) in condition {
            let after = code.len() + 1;
            let to = |to: To| match to {
                To::Next => 0,
                To::Holds => (holds - after) as u8,
                To::Fails => (end - after) as u8,
            };
            code.push(jump(operation, operand, to(yes), to(no)));
        }
    }
    code.push(give(verdict));
    code
}

/// Compares an argument, upper word first; 32-bit interfaces have the lower word only.
fn steps(abi: Abi, condition: &LinuxSeccompArg) -> Vec<Step> {
    use LinuxSeccompOperator as Is;
    use To::{Fails, Holds, Next};
    let low = ARGUMENTS + 8 * condition.index as u32;
    let mut steps = Vec::with_capacity(6);
    let read = |steps: &mut Vec<Step>, offset: u32, mask: u32| {
        steps.push(Step(LOAD, offset, Next, Next));
        if condition.op == Is::MaskedEq {
            steps.push(Step(AND, mask, Next, Next));
        }
    };
    let value = condition.value;
    // For a masked comparison `value` is the mask and `valueTwo` what must be left.
    let wanted = match condition.op {
        Is::MaskedEq => condition.value_two.unwrap_or(0),
        _ => value,
    };
    let (upper, lower) = ((wanted >> 32) as u32, wanted as u32);
    if abi.wide() {
        read(&mut steps, low + 4, (value >> 32) as u32);
        match condition.op {
            Is::Eq | Is::MaskedEq => steps.push(Step(JUMP_EQ, upper, Next, Fails)),
            Is::Ne => steps.push(Step(JUMP_EQ, upper, Next, Holds)),
            Is::Gt | Is::Ge => {
                steps.push(Step(JUMP_GT, upper, Holds, Next));
                steps.push(Step(JUMP_EQ, upper, Next, Fails));
            }
            Is::Lt | Is::Le => {
                steps.push(Step(JUMP_GT, upper, Fails, Next));
                steps.push(Step(JUMP_EQ, upper, Next, Holds));
            }
        }
    }
    read(&mut steps, low, value as u32);
    steps.push(match condition.op {
        Is::Eq | Is::MaskedEq => Step(JUMP_EQ, lower, Next, Fails),
        Is::Ne => Step(JUMP_EQ, lower, Fails, Next),
        Is::Gt => Step(JUMP_GT, lower, Next, Fails),
        Is::Ge => Step(JUMP_GE, lower, Next, Fails),
        Is::Lt => Step(JUMP_GE, lower, Fails, Next),
        Is::Le => Step(JUMP_GT, lower, Fails, Next),
    });
    steps
}

const fn load(offset: u32) -> Instruction {
    Instruction {
        code: LOAD,
        jt: 0,
        jf: 0,
        k: offset,
    }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

const fn give(verdict: u32) -> Instruction {
    Instruction {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: verdict,
    }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
