//! Pressure on the disk and the memory: when it begins to count, and when it is over, so that it does not flutter between both.

/// Stalled time of a minute from which on memory is short: a tenth. Hundredths of a percent, as `/proc/pressure` says it.
const SHORT_FROM: u32 = 10_00;
/// Below this it is short no more.
const SHORT_UNTIL: u32 = 5_00;

/// Whether the disk is at its reserve. It is from less than the reserve on, until a quarter more than it is free. Bytes.
pub fn disk_full(was: bool, free: u64, reserve: u64) -> bool {
    let until = if was {
        reserve.saturating_add(reserve / 4)
    } else {
        reserve
    };
    free < until
}

/// Whether memory is short, by the share of the last minute in which every task waited for it.
pub fn memory_short(was: bool, stalled: u32) -> bool {
    stalled >= if was { SHORT_UNTIL } else { SHORT_FROM }
}

/// The share of the last minute in which every task waited, in hundredths of a percent: `avg60` of the line `full` of a file of
/// /proc/pressure.
pub fn stalled(text: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix("full "))?;
    let value = line.split_whitespace().find_map(|word| word.strip_prefix("avg60="))?;
    let (whole, part) = value.split_once('.')?;
    let (whole, part): (u32, u32) = (whole.parse().ok()?, part.get(..2)?.parse().ok()?);
    (whole <= 100).then_some(whole * 100 + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_comes_at_one_level_and_goes_at_another() {
        for (free, before, after) in [
            (0, true, true),
            (99, true, true),
            (100, false, true),
            (124, false, true),
            (125, false, false),
            (u64::MAX, false, false),
        ] {
            assert_eq!(
                (disk_full(false, free, 100), disk_full(true, free, 100)),
                (before, after),
                "{free}"
            );
        }
        assert!(!disk_full(false, 0, 0) && disk_full(true, 5, u64::MAX));
        for (stalled, before, after) in [
            (0, false, false),
            (499, false, false),
            (500, false, true),
            (999, false, true),
            (1000, true, true),
            (10_000, true, true),
        ] {
            assert_eq!(
                (memory_short(false, stalled), memory_short(true, stalled)),
                (before, after),
                "{stalled}"
            );
        }
    }

    #[test]
    fn the_kernels_text_is_read() {
        let text = "some avg10=0.00 avg60=99.00 avg300=0.00 total=1\nfull avg10=3.00 avg60=12.34 avg300=0.00 total=5\n";
        assert_eq!(stalled(text), Some(1234));
        assert_eq!(stalled("full avg10=0.00 avg60=0.00 avg300=0.00 total=0"), Some(0));
        assert_eq!(
            stalled("full avg10=0.00 avg60=100.00 avg300=0.00 total=0"),
            Some(10_000)
        );
        for bad in [
            "",
            "some avg60=1.00",
            "full avg60=1",
            "full avg60=.",
            "full avg60=1.x0",
            "full avg60=101.00",
            "full",
        ] {
            assert_eq!(stalled(bad), None, "{bad}");
        }
    }
}
