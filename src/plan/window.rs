//! Maintenance windows: whether a time of day lies in one, and when the next opens.

use crate::types::time::Unix;

/// Minutes of a day.
const DAY: u32 = 24 * 60;

/// A window of the day in local time; one whose end is not after its start passes midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Minute of the day at which it opens, 0 to 1439.
    pub opens: u32,
    /// Minute of the day at which it closes, 0 to 1440.
    pub closes: u32,
}

/// A text that is not a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a window; write for example `02:00-04:00`")]
pub struct WindowError(String);

impl std::str::FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Window, WindowError> {
        let minute = |part: &str| -> Option<u32> {
            let (hours, minutes) = part.split_once(':')?;
            let digits = |s: &str| s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit());
            if !digits(hours) || !digits(minutes) {
                return None;
            }
            let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
            let total = hours * 60 + minutes;
            (minutes < 60 && total <= DAY).then_some(total)
        };
        let parse = || {
            let (from, to) = text.split_once('-')?;
            let (opens, closes) = (minute(from)?, minute(to)?);
            (opens < DAY && opens != closes).then_some(Window { opens, closes })
        };
        parse().ok_or_else(|| WindowError(text.chars().take(40).collect()))
    }
}

impl Window {
    /// Whether the window is open at `now`; `offset` is the local time's seconds east of UTC.
    pub fn is_open(&self, now: Unix, offset: i32) -> bool {
        let minute = local_ms(now, offset) / 60_000;
        let (opens, closes) = (u64::from(self.opens), u64::from(self.closes));
        if opens < closes {
            (opens..closes).contains(&minute)
        } else {
            minute >= opens || minute < closes
        }
    }

    /// Milliseconds until the window opens; 0 while it is open.
    pub fn opens_in(&self, now: Unix, offset: i32) -> u64 {
        if self.is_open(now, offset) {
            return 0;
        }
        let day = u64::from(DAY) * 60_000;
        (u64::from(self.opens) * 60_000 + day - local_ms(now, offset)) % day
    }
}

/// Milliseconds since local midnight.
fn local_ms(now: Unix, offset: i32) -> u64 {
    let day = i128::from(DAY) * 60_000;
    let local = i128::from(now.0) + i128::from(offset) * 1000;
    local.rem_euclid(day) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: u64, minute: u64) -> Unix {
        Unix((20_000 * 86_400 + hour * 3600 + minute * 60) * 1000)
    }

    #[test]
    fn windows_open_and_close_on_the_minute() {
        type Row = (&'static str, i32, (u64, u64), bool, u64);
        let table: [Row; 11] = [
            ("02:00-04:00", 0, (1, 59), false, 1),
            ("02:00-04:00", 0, (2, 0), true, 0),
            ("02:00-04:00", 0, (3, 59), true, 0),
            ("02:00-04:00", 0, (4, 0), false, 22 * 60),
            ("22:00-02:00", 0, (23, 0), true, 0),
            ("22:00-02:00", 0, (1, 59), true, 0),
            ("22:00-02:00", 0, (2, 0), false, 20 * 60),
            ("02:00-04:00", 3600, (1, 0), true, 0),
            ("02:00-04:00", -3600, (2, 30), false, 30),
            ("20:00-24:00", 0, (23, 59), true, 0),
            ("00:00-01:00", 0, (23, 59), false, 1),
        ];
        for (text, offset, (hour, minute), open, minutes) in table {
            let window: Window = text.parse().unwrap();
            assert_eq!(
                window.is_open(at(hour, minute), offset),
                open,
                "{text} at {hour}:{minute}"
            );
            assert_eq!(
                window.opens_in(at(hour, minute), offset),
                minutes * 60_000,
                "{text} at {hour}:{minute}"
            );
        }
        let window: Window = "02:00-04:00".parse().unwrap();
        assert_eq!(
            window.opens_in(Unix(at(1, 59).0 + 30_000), 0),
            30_000,
            "to the millisecond"
        );
    }

    #[test]
    fn only_windows_parse() {
        for bad in [
            "",
            "02:00",
            "2:00-4:00",
            "02:00-02:00",
            "24:00-01:00",
            "02:60-03:00",
            "02:00-25:00",
            "02:00-04:00-05:00",
            "ab:cd-ef:gh",
            "02:00 - 04:00",
        ] {
            assert!(bad.parse::<Window>().is_err(), "{bad}");
        }
    }
}
