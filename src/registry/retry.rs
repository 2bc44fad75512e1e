//! When to try again: pauses with jitter, and what a registry asks for in `Retry-After`.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::sleep;

use super::error::RegistryError;
use super::settings::Limits;
use super::transport::Reply;
use crate::types::time::Unix;

/// Counts tries of one request.
#[derive(Debug)]
pub(crate) struct Tries {
    limits: Limits,
    made: u32,
    moved: bool,
}

impl Tries {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            made: 0,
            moved: false,
        }
    }

    /// Starts counting anew: something went well. The next pause is a short one.
    pub(crate) fn progress(&mut self) {
        self.made = 0;
        self.moved = true;
    }

    /// Waits before the next try; gives the error back where there is none.
    pub(crate) async fn next(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.made += 1;
        if !error.transient() || self.made >= self.limits.attempts.max(1) {
            return Err(error);
        }
        let pause = match error.retry_after() {
            Some(asked) if asked > self.limits.retry_after_max => return Err(error),
            Some(asked) => asked.max(self.limits.pause(1, chance())),
            None if self.moved => self.limits.pause(1, chance()) / 4,
            None => self.limits.pause(self.made, chance()),
        };
        self.moved = false;
        crate::debug!("{error}; trying again in {} ms", pause.as_millis());
        sleep(pause).await;
        Ok(())
    }
}

/// Tries the same until it is done or may not be tried again.
pub(crate) async fn retried<T>(
    limits: &Limits,
    mut once: impl AsyncFnMut() -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    let mut tries = Tries::new(limits);
    loop {
        match once().await {
            Ok(done) => return Ok(done),
            Err(error) => tries.next(error).await?,
        }
    }
}

/// A random number; a constant where the system has none.
fn chance() -> u32 {
    let mut bytes = [0x80; 4];
    // Without randomness the pauses are merely not spread.
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

/// How long the answer asks to wait: seconds, or a date, read against the answer's own `Date` so that our clock does not matter.
pub(crate) fn retry_after(reply: &Reply) -> Option<Duration> {
    let text = reply.header("retry-after")?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = http_date(text)?;
    let now = http_date(reply.header("date")?.trim())?;
    Some(Duration::from_millis(until.0.saturating_sub(now.0)))
}

/// A date as HTTP writes it (RFC 9110, IMF-fixdate): `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<Unix> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let (day, month, year, time, zone) = (
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
    );
    if zone != "GMT" || month.len() != 3 || parts.next().is_some() {
        return None;
    }
    let month = MONTHS.find(month).filter(|at| at % 3 == 0)? / 3 + 1;
    Unix::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sat, 21 Nov 2026 22:00:00 GMT", Some(1_795_298_400)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 06 ovD 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("", None),
        ] {
            assert_eq!(http_date(text), seconds.map(|s| Unix(s * 1000)), "{text}");
        }
    }
}
