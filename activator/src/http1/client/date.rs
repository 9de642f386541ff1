//! The time for answers that tell none, written once a second.

use std::{
    cell::RefCell,
    io::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};

/// A date as it is written (RFC 9110 section 5.6.7).
pub(super) type Date = [u8; 29];

struct Written {
    second: u64,
    text: Date,
}

thread_local! {
    static WRITTEN: RefCell<Written> = const { RefCell::new(Written { second: u64::MAX, text: [0; 29] }) };
}

/// The date now. By the clock that the kernel sets with each of its ticks: a date has no parts of seconds, and to look there costs nearly nothing.
pub(super) fn now() -> Date {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).ok();
    let seconds = now.and_then(|now| u64::try_from(now.tv_sec()).ok());
    at(seconds.unwrap_or_default())
}

/// The date of a second since 1970.
fn at(second: u64) -> Date {
    WRITTEN.with_borrow_mut(|written| {
        if written.second != second {
            written.second = second;
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            // A date has this length until the year 9999.
            let _ = (&mut written.text[..]).write_all(date.as_bytes());
        }
        written.text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_anew_with_each_second() {
        assert_eq!(&at(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&at(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&at(784_111_778), b"Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
