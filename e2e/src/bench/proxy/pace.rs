//! A constant rate, in steps of a quarter of a millisecond. The runtime's own timers know milliseconds only, and most of what is measured of a
//! request would be the way to the next one. Finer steps cost the clients' core so much that they are late themselves.

use std::{
    os::fd::{AsFd as _, AsRawFd, RawFd},
    time::Duration,
};

use anyhow::Result;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

/// Between two steps.
const STEP: Duration = Duration::from_micros(250);

/// When what is due, until an end.
pub(super) struct Pace {
    timer: AsyncFd<Timer>,
    began: Instant,
    steps: u32,
    a_step: f64,
    /// Of this step, not given out yet.
    left: f64,
    lasts: Duration,
}

struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Pace {
    /// So many a second for so long, from now on.
    pub(super) fn start(rate: f64, lasts: Duration) -> Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let each = Expiration::Interval(STEP.into());
        timer.set(each, TimerSetTimeFlags::empty())?;
        Ok(Self {
            timer: watch(timer)?,
            began: Instant::now(),
            steps: 0,
            a_step: rate * STEP.as_secs_f64(),
            left: 0.0,
            lasts,
        })
    }

    /// Waits for the next one; when it was due, which is in the past if this was asked too late. `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Instant>> {
        while self.left < 1.0 {
            self.steps += 1;
            self.left += self.a_step;
        }
        self.left -= 1.0;
        let due = self.began + STEP * self.steps;
        while Instant::now() < due {
            let mut passed = self.timer.readable().await?;
            // Whether or not it has really passed is seen by the clock.
            let _ = passed.try_io(|timer| Ok(timer.get_ref().0.wait()?));
        }
        Ok((due < self.began + self.lasts).then_some(due))
    }
}

#[expect(
    unsafe_code,
    reason = "there is no other way to wait for a descriptor that is no socket"
)]
fn watch(timer: TimerFd) -> Result<AsyncFd<Timer>> {
    // SAFETY: the descriptor is the timer's own, which keeps it open and never gives another one.
    Ok(unsafe { AsyncFd::register_with_interest(Timer(timer), Interest::READABLE) }?)
}
