//! The time for answers that tell none, written once a second.

use std::{
    cell::RefCell,
    io::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Bytes of a date (RFC 9110 section 5.6.7).
const LENGTH: usize = 29;

struct Written {
    second: u64,
    text: [u8; LENGTH],
}

thread_local! {
    static WRITTEN: RefCell<Written> = const { RefCell::new(Written { second: u64::MAX, text: [0; LENGTH] }) };
}

/// The date at `now`, by the clock of all.
pub(super) fn at(now: SystemTime) -> [u8; LENGTH] {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    WRITTEN.with_borrow_mut(|written| {
        if written.second != since.as_secs() {
            written.second = since.as_secs();
            let second = UNIX_EPOCH + Duration::from_secs(written.second);
            let date = httpdate::fmt_http_date(second);
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
        let first = UNIX_EPOCH + Duration::from_millis(784_111_777_900);
        assert_eq!(&at(first), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&at(first), b"Sun, 06 Nov 1994 08:49:37 GMT");
        let next = first + Duration::from_millis(100);
        assert_eq!(&at(next), b"Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
