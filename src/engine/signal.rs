//! Signals by name and number (signal(7), Linux on x86_64 and aarch64).

/// Names and numbers of the standard signals.
const NAMES: [(&str, i32); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// First real-time signal as C libraries count them.
const RTMIN: i32 = 34;
/// Last signal.
const RTMAX: i32 = 64;

/// `SIGRTMIN+3`, which tells systemd to halt.
pub const SYSTEMD: i32 = 37;
/// `SIGTERM`.
pub const TERM: i32 = 15;
/// `SIGKILL`.
pub const KILL: i32 = 9;

/// The number of `TERM`, `SIGTERM`, `15`, `RTMIN+3`; `None` for what is no signal. Case is ignored.
pub fn parse(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => RTMIN,
        (Some(more), _) => RTMIN + more.strip_prefix('+')?.parse::<i32>().ok()?,
        (_, Some("")) => RTMAX,
        (_, Some(less)) => RTMAX - less.strip_prefix('-')?.parse::<i32>().ok()?,
        _ => return None,
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The name of a signal with `SIG`, or its number.
pub fn name(signal: i32) -> String {
    match NAMES.iter().find(|(_, number)| *number == signal) {
        Some((name, _)) => format!("SIG{name}"),
        None if (RTMIN..=RTMAX).contains(&signal) => format!("SIGRTMIN+{}", signal - RTMIN),
        None => signal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, want) in [
            ("TERM", Some(15)),
            ("SIGTERM", Some(15)),
            ("sigterm", Some(15)),
            ("15", Some(15)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMIN", Some(34)),
            ("RTMAX-1", Some(63)),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("RTMIN+99", None),
            ("NOPE", None),
            ("", None),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
        assert_eq!(name(9), "SIGKILL");
        assert_eq!(name(37), "SIGRTMIN+3");
        for number in 1..=31 {
            assert_eq!(parse(&name(number)), Some(number));
        }
    }
}
