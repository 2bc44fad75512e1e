//! Rules of devices as a program that the kernel asks at every open(2) and mknod(2) (v2; pure).
//!
//! A program is called with `struct bpf_cgroup_dev_ctx`: three words, of which the first has the kind of the node in its low
//! half and what is wanted in its high half, then major and minor number. 1 allows, 0 denies.
//!
//! Later rules override earlier ones, so they are asked from the last to the first. Each decides those accesses that it
//! names and that are not decided yet: a rule that denies one of them ends it, and one that allows the last of them too.

use super::devices::{ALL, Kind, Rule};
use crate::sys::bpf::{AND, COPY, EXIT, Instruction, JUMP_EQ, JUMP_NE, LOAD, SET, SHIFT_RIGHT};

/// The verdict.
const VERDICT: u8 = 0;
/// The address of the three words.
const CONTEXT: u8 = 1;
/// What a rule looks at. Read anew by every rule: what the kernel's verifier learns about it is then forgotten, and the
/// number of ways through the program that it follows grows with the rules and not with their square.
const WORD: u8 = 2;
/// What is wanted and not decided yet.
const WANTED: u8 = 6;

/// Makes the program. What no rule names is denied.
pub(super) fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![load(WANTED, 0), one(SHIFT_RIGHT, WANTED, 0, 16)];
    let decisive = rules.iter().rposition(Rule::is_total);
    let (last, rest) = match decisive {
        Some(at) => (rules[at].allow, &rules[at + 1..]),
        None => (false, rules),
    };
    for rule in rest.iter().rev().filter(|rule| rule.access != 0) {
        add(rule, &mut program);
    }
    program.extend(verdict(last));
    program
}

fn add(rule: &Rule, program: &mut Vec<Instruction>) {
    let mut decide = Vec::with_capacity(5);
    let access = i32::from(rule.access);
    if rule.allow {
        decide.push(one(AND, WANTED, 0, i32::from(ALL & !rule.access)));
        decide.push(one(JUMP_NE, WANTED, 2, 0));
    } else {
        decide.push(Instruction {
            registers: WORD | WANTED << 4,
            ..one(COPY, WORD, 0, 0)
        });
        decide.push(one(AND, WORD, 0, access));
        decide.push(one(JUMP_EQ, WORD, 2, 0));
    }
    decide.extend(verdict(rule.allow));
    let mut wanted = Vec::with_capacity(7);
    // Each comparison that fails leads to the next rule; how far that is, is known at the end.
    if let Some(kind) = rule.kind {
        let number = match kind {
            Kind::Block => 1,
            Kind::Char => 2,
        };
        wanted.extend([load(WORD, 0), one(AND, WORD, 0, 0xffff), one(JUMP_NE, WORD, 0, number)]);
    }
    for (word, number) in [(4, rule.major), (8, rule.minor)] {
        // The bits as they are: comparisons are of 32 bits.
        wanted.extend(
            number
                .into_iter()
                .flat_map(|n| [load(WORD, word), one(JUMP_NE, WORD, 0, n as i32)]),
        );
    }
    let length = wanted.len() + decide.len();
    for (at, instruction) in wanted.iter_mut().enumerate().filter(|(_, i)| i.code == JUMP_NE) {
        // At most eleven.
        instruction.offset = (length - at - 1) as i16;
    }
    program.append(&mut wanted);
    program.append(&mut decide);
}

fn verdict(allow: bool) -> [Instruction; 2] {
    [one(SET, VERDICT, 0, i32::from(allow)), one(EXIT, 0, 0, 0)]
}

const fn load(register: u8, offset: i16) -> Instruction {
    Instruction {
        code: LOAD,
        registers: register | CONTEXT << 4,
        offset,
        immediate: 0,
    }
}

const fn one(code: u8, register: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset,
        immediate,
    }
}

#[cfg(test)]
mod tests {
    use super::super::devices::{DEFAULT, MKNOD, READ, WRITE};
    use super::*;

    /// Runs a program as the kernel would; every register that is read must have been set.
    fn run(program: &[Instruction], kind: Kind, access: u8, major: u32, minor: u32) -> bool {
        let kind: u32 = if kind == Kind::Block { 1 } else { 2 };
        let context = [u32::from(access) << 16 | kind, major, minor];
        let mut registers: [Option<u64>; 11] = [None; 11];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                registers: pair,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let number = immediate as u32;
            let low = |value: Option<u64>| value.expect("a register that is set") as u32;
            at += 1;
            match code {
                LOAD => {
                    assert_eq!(from, usize::from(CONTEXT));
                    registers[to] = Some(u64::from(context[usize::try_from(offset).expect("forward") / 4]));
                }
                COPY => registers[to] = Some(registers[from].expect("a register that is set")),
                SET => registers[to] = Some(i64::from(immediate) as u64),
                AND => registers[to] = Some(u64::from(low(registers[to]) & number)),
                SHIFT_RIGHT => registers[to] = Some(u64::from(low(registers[to]) >> number)),
                JUMP_EQ | JUMP_NE => {
                    if (low(registers[to]) == number) == (code == JUMP_EQ) {
                        at += usize::try_from(offset).expect("forward");
                    }
                }
                EXIT => match registers[0].expect("a verdict") {
                    0 => return false,
                    1 => return true,
                    other => panic!("verdict {other}"),
                },
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// The rules as the specification says them: for each wanted access the last rule that speaks of it.
    fn allowed(rules: &[Rule], kind: Kind, access: u8, major: u32, minor: u32) -> bool {
        let decided = |bit: u8| {
            let speaks = |rule: &&Rule| {
                rule.access & bit != 0
                    && rule.kind.is_none_or(|one| one == kind)
                    && rule.major.is_none_or(|one| one == major)
                    && rule.minor.is_none_or(|one| one == minor)
            };
            rules.iter().rfind(speaks).is_some_and(|rule| rule.allow)
        };
        [MKNOD, READ, WRITE]
            .into_iter()
            .filter(|bit| access & bit != 0)
            .all(decided)
    }

    fn agree(rules: &[Rule]) {
        let program = compile(rules);
        for kind in [Kind::Block, Kind::Char] {
            for access in 1..=ALL {
                for major in [0, 1, 5, 10, 136, 4095] {
                    for minor in [0, 1, 3, 9, 200, 1 << 19] {
                        assert_eq!(
                            run(&program, kind, access, major, minor),
                            allowed(rules, kind, access, major, minor),
                            "{rules:?}: {kind:?} {major}:{minor} {access:#b}"
                        );
                    }
                }
            }
        }
    }

    fn rules(json: &str) -> Vec<Rule> {
        let all: Vec<_> = serde_json::from_str(json).expect("rules");
        super::super::devices::understand(&all).expect("understood")
    }

    #[test]
    fn programs_decide_as_the_rules_say() {
        for json in [
            r#"[]"#,
            r#"[{"allow":true}]"#,
            r#"[{"allow":false,"access":"rwm"}]"#,
            r#"[{"allow":true},{"allow":false}]"#,
            r#"[{"allow":false},{"allow":true,"type":"c","major":10,"minor":200,"access":"rw"}]"#,
            r#"[{"allow":true,"type":"c","major":10,"access":"r"},{"allow":true,"type":"c","minor":200,"access":"w"}]"#,
            r#"[{"allow":true},{"allow":false,"type":"b"},{"allow":false,"access":"m"}]"#,
            r#"[{"allow":true,"type":"c","major":1},{"allow":false,"type":"c","major":1,"minor":9,"access":"w"}]"#,
            r#"[{"allow":true,"type":"a","access":"r"},{"allow":false,"type":"u","major":1,"minor":3}]"#,
            r#"[{"allow":true,"major":-1,"minor":9,"access":"wm"},{"allow":false,"type":"b","major":5,"access":"m"}]"#,
            r#"[{"allow":true,"type":"c","major":4095,"minor":524288},{"allow":true,"type":"b","major":4294967295}]"#,
        ] {
            let mut all = rules(json);
            agree(&all);
            all.extend(DEFAULT);
            agree(&all);
        }
    }

    #[test]
    fn programs_of_any_rules_decide_as_the_rules_say() {
        // Numbers that look like chance and are the same every time (Knuth's MMIX).
        let mut seed = 1u64;
        let mut next = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let numbers = [0, 1, 5, 9, 10, 136, 200];
        for _ in 0..1500 {
            let length = next(7);
            let all: Vec<Rule> = (0..length)
                .map(|_| Rule {
                    allow: next(2) == 0,
                    kind: [None, Some(Kind::Block), Some(Kind::Char)][next(3) as usize],
                    major: (next(3) != 0).then(|| numbers[next(7) as usize]),
                    minor: (next(3) != 0).then(|| numbers[next(7) as usize]),
                    access: next(8) as u8,
                })
                .collect();
            agree(&all);
        }
    }

    #[test]
    fn what_a_total_rule_overrides_is_left_away() {
        let long = rules(r#"[{"allow":true,"type":"c","major":1},{"allow":true},{"allow":false}]"#);
        assert_eq!(compile(&long), compile(&[]));
        assert_eq!(compile(&[]).len(), 4);
    }
}
