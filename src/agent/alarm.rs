//! The one timer that the agent's loop sleeps on. One of the kernel's: tokio's own wheel wakes the process up to three times for a
//! time that is far off.

use std::io;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use super::daemon::now;
use crate::sys::event::TimerFd;
use crate::types::time::Mono;

/// It.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: AsyncFd<TimerFd>,
    set: Option<Mono>,
}

impl Alarm {
    /// Within a runtime.
    pub(super) fn new() -> io::Result<Alarm> {
        Ok(Alarm {
            timer: TimerFd::new()?.into_async()?,
            set: None,
        })
    }

    /// Waits for this time. May be dropped and asked again, for another time too.
    pub(super) async fn until(&mut self, at: Mono) -> io::Result<()> {
        loop {
            let left = at.since(now());
            if left == 0 {
                return Ok(());
            }
            if self.set != Some(at) {
                // What fired before counts no more.
                self.timer.get_ref().set(Some(Duration::from_millis(left)))?;
                self.set = Some(at);
            }
            self.timer.readable().await?.clear_ready();
            if self.timer.get_ref().read()?.is_some() {
                self.set = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rings_at_the_time_that_was_asked_last() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut alarm = Alarm::new().unwrap();
            for (asked, dropped) in [(40, None), (20, Some(10_000)), (40, Some(1)), (0, None)] {
                if let Some(other) = dropped {
                    let other = std::pin::pin!(alarm.until(now().plus(other)));
                    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                    assert!(other.poll(&mut context).is_pending());
                    std::thread::sleep(Duration::from_millis(2));
                }
                let at = now().plus(asked);
                alarm.until(at).await.unwrap();
                let late = now().since(at);
                assert!(now() >= at && late < 10_000, "{asked} {dropped:?}: {late} ms late");
            }
        });
    }
}
