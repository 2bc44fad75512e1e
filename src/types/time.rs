//! Points in time and durations. Decisions take them as values; nothing here reads a clock.

use std::fmt;
use std::str::FromStr;

/// Milliseconds since an arbitrary point of this boot (CLOCK_BOOTTIME), for intervals and time-outs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Mono(pub u64);

/// Milliseconds since the Unix epoch, for what people and records see; may jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Unix(pub u64);

impl Mono {
    /// Milliseconds from `earlier` to this; 0 when `earlier` is later.
    pub const fn since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This point plus `ms` milliseconds.
    pub const fn plus(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms))
    }
}

impl Unix {
    /// Whole seconds since the epoch.
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// RFC 3339 in UTC with millisecond precision left out: `2026-11-21T22:00:00Z`.
    pub fn rfc3339(self) -> String {
        let (y, mo, d, h, mi, s) = self.civil();
        format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}Z")
    }

    /// Year, month, day, hour, minute, second in UTC.
    pub fn civil(self) -> (u64, u64, u64, u64, u64, u64) {
        let seconds = self.seconds();
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Days to a proleptic Gregorian date, years beginning in March so that leap days come last.
        let z = days + 719_468;
        let era = z / 146_097;
        let day_of_era = z % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_index = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_index + 2) / 5 + 1;
        let month = if month_index < 10 {
            month_index + 3
        } else {
            month_index - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        (year, month, day, rest / 3600, rest % 3600 / 60, rest % 60)
    }

    /// The point that an RFC 3339 text names; fractions of a second beyond milliseconds are dropped.
    pub fn parse_rfc3339(text: &str) -> Option<Unix> {
        let bytes = text.as_bytes();
        if bytes.len() < 20 || bytes.len() > 40 || !text.is_ascii() {
            return None;
        }
        let number = |from: usize, to: usize| -> Option<u64> {
            let part = &text[from..to];
            if part.bytes().all(|b| b.is_ascii_digit()) {
                part.parse().ok()
            } else {
                None
            }
        };
        let fixed = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
        if fixed.iter().any(|&(at, c)| bytes[at] != c) || !matches!(bytes[10], b'T' | b't' | b' ') {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let month_days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let last = *month_days.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
        if year < 1970 || day == 0 || day > last || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let mut rest = &text[19..];
        let mut millis = 0;
        if let Some(fraction) = rest.strip_prefix('.') {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return None;
            }
            let first: String = fraction[..digits].chars().chain("00".chars()).take(3).collect();
            millis = first.parse().ok()?;
            rest = &fraction[digits..];
        }
        let offset: i64 = match rest {
            "Z" | "z" => 0,
            _ => {
                let sign = match rest.as_bytes().first()? {
                    b'+' => 1,
                    b'-' => -1,
                    _ => return None,
                };
                if rest.len() != 6 || rest.as_bytes()[3] != b':' {
                    return None;
                }
                let part = |s: &str| {
                    if s.bytes().all(|b| b.is_ascii_digit()) {
                        s.parse::<i64>().ok()
                    } else {
                        None
                    }
                };
                let (hours, minutes) = (part(&rest[1..3])?, part(&rest[4..6])?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                sign * (hours * 3600 + minutes * 60)
            }
        };
        let (y, m) = if month <= 2 {
            (year - 1, month + 9)
        } else {
            (year, month - 3)
        };
        let day_of_era = y % 400 * 365 + y % 400 / 4 - y % 400 / 100 + (153 * m + 2) / 5 + day - 1;
        let days = (y / 400 * 146_097 + day_of_era).checked_sub(719_468)?;
        let local = i64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok()?;
        let seconds = u64::try_from(local - offset).ok()?;
        Some(Unix(seconds * 1000 + millis))
    }
}

/// A duration as people write it: `300ms`, `10s`, `5m`, `1h30m`, `2d`; a bare number means seconds. Millisecond precision.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub u64);

/// The longest span that is accepted: 10 years, in milliseconds.
pub const SPAN_MAX_MS: u64 = 10 * 365 * 86_400_000;

impl Span {
    /// A span of whole seconds.
    pub const fn seconds(s: u64) -> Span {
        Span(s * 1000)
    }

    /// Milliseconds.
    pub const fn ms(self) -> u64 {
        self.0
    }

    /// As the standard library's duration.
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration; write for example `300ms`, `10s`, `5m`, `1h30m`")]
pub struct SpanError(String);

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Span, SpanError> {
        let error = || SpanError(text.chars().take(40).collect());
        if text.is_empty() || text.len() > 40 {
            return Err(error());
        }
        let mut total: f64 = 0.0;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
            let number: f64 = rest[..digits].parse().map_err(|_| error())?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let scale = match &rest[..letters] {
                "ms" => 1.0,
                "s" => 1000.0,
                "" if digits == text.len() => 1000.0,
                "m" => 60_000.0,
                "h" => 3_600_000.0,
                "d" => 86_400_000.0,
                "us" | "µs" => 0.001,
                "ns" => 0.000_001,
                _ => return Err(error()),
            };
            rest = &rest[letters..];
            total += number * scale;
        }
        let ms = total.round();
        if !(0.0..=SPAN_MAX_MS as f64).contains(&ms) {
            return Err(error());
        }
        Ok(Span(ms as u64))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0;
        if ms == 0 {
            return f.write_str("0s");
        }
        let parts = [
            (ms / 3_600_000, "h"),
            (ms / 60_000 % 60, "m"),
            (ms / 1000 % 60, "s"),
            (ms % 1000, "ms"),
        ];
        for (value, unit) in parts {
            if value > 0 {
                write!(f, "{value}{unit}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> serde::Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            Ok(Span(u64::deserialize(deserializer)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, ms, printed) in [
            ("10s", 10_000, "10s"),
            ("300ms", 300, "300ms"),
            ("1h30m", 5_400_000, "1h30m"),
            ("5", 5_000, "5s"),
            ("0.5s", 500, "500ms"),
            ("2d", 172_800_000, "48h"),
            ("0s", 0, "0s"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.ms(), ms, "{text}");
            assert_eq!(span.to_string(), printed);
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
        for bad in ["", "s", "-1s", "1x", "1s2", "99999999999d", "1..2s", "NaN", "inf"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn dates_go_both_ways() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-21T22:00:00Z", 1_795_298_400),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(Unix::parse_rfc3339(text), Some(Unix(seconds * 1000)), "{text}");
            assert_eq!(Unix(seconds * 1000).rfc3339(), text);
        }
        assert_eq!(Unix::parse_rfc3339("1970-01-01T01:00:00.25+01:00"), Some(Unix(250)));
        for bad in [
            "",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00+1:00",
            "2026-01-01T00:00:00.Z",
        ] {
            assert_eq!(Unix::parse_rfc3339(bad), None, "{bad}");
        }
    }
}
