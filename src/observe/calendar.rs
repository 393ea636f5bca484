//! Dates in log lines: computed once per second and thread, not once per line.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, UtcOffset};

/// Learns the local offset. It can only be asked while the process has one thread, so this is called before any is started;
/// otherwise local time is UTC.
///
/// The offset stays what it was at start: after a change to daylight-saving time lines still name the right instant.
pub(crate) fn local_offset_seconds() -> i32 {
    static OFFSET: OnceLock<i32> = OnceLock::new();
    *OFFSET.get_or_init(|| UtcOffset::current_local_offset().map_or(0, UtcOffset::whole_seconds))
}

/// A moment, split as lines need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    seconds: i64,
    nanos: u32,
}

impl Moment {
    pub(crate) fn of(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self { seconds: i64::try_from(since.as_secs()).unwrap_or(0), nanos: since.subsec_nanos() },
            // A clock before 1970 is a broken clock; its lines say so.
            Err(_) => Self { seconds: 0, nanos: 0 },
        }
    }

    /// `2006-01-02T15:04:05.123456789Z`, as Go's RFC3339Nano: without trailing zeros.
    pub(crate) fn push_rfc3339_nanos(self, line: &mut Vec<u8>, offset: i32) {
        with_second(self.seconds, offset, |second| {
            line.extend_from_slice(&second.date);
            push_fraction(line, self.nanos);
            line.extend_from_slice(second.zone());
        });
    }

    /// `2006-01-02T15:04:05Z`.
    pub(crate) fn push_rfc3339(self, line: &mut Vec<u8>, offset: i32) {
        with_second(self.seconds, offset, |second| {
            line.extend_from_slice(&second.date);
            line.extend_from_slice(second.zone());
        });
    }

    /// `2006-01-02T15:04:05.123Z`.
    pub(crate) fn push_rfc3339_millis(self, line: &mut Vec<u8>, offset: i32) {
        with_second(self.seconds, offset, |second| {
            line.extend_from_slice(&second.date);
            let millis = self.nanos / 1_000_000;
            line.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis)]);
            line.extend_from_slice(second.zone());
        });
    }

    /// `02/Jan/2006:15:04:05 +0000`, as web servers write it.
    pub(crate) fn push_clf(self, line: &mut Vec<u8>, offset: i32) {
        with_second(self.seconds, offset, |second| line.extend_from_slice(&second.clf));
    }

    /// `2006-01-02T15-04-05.123`, as it stands in names of files that were set aside.
    pub(crate) fn file_stamp(self) -> String {
        let mut stamp = Vec::with_capacity(24);
        self.push_rfc3339_millis(&mut stamp, 0);
        stamp.pop();
        String::from_utf8_lossy(&stamp).replace(':', "-")
    }
}

/// One second in all its forms.
struct Second {
    seconds: i64,
    offset: i32,
    date: [u8; 19],
    zone: [u8; 6],
    clf: [u8; 26],
}

impl Second {
    fn zone(&self) -> &[u8] {
        if self.offset == 0 { b"Z" } else { &self.zone }
    }

    fn new(seconds: i64, offset: i32) -> Self {
        const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
        let local =
            OffsetDateTime::from_unix_timestamp(seconds + i64::from(offset)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let year = u32::try_from(local.year()).unwrap_or(0);
        let (month, day) = (u32::from(u8::from(local.month())), u32::from(local.day()));
        let (hour, minute, second) = (u32::from(local.hour()), u32::from(local.minute()), u32::from(local.second()));
        let mut date = *b"0000-00-00T00:00:00";
        date[..4].copy_from_slice(&[digit(year / 1000), digit(year / 100), digit(year / 10), digit(year)]);
        for (at, value) in [(5, month), (8, day), (11, hour), (14, minute), (17, second)] {
            date[at..at + 2].copy_from_slice(&[digit(value / 10), digit(value)]);
        }
        let minutes = offset.unsigned_abs() / 60;
        let sign = if offset < 0 { b'-' } else { b'+' };
        let zone =
            [sign, digit(minutes / 600), digit(minutes / 60 % 10), b':', digit(minutes % 60 / 10), digit(minutes % 60)];
        let mut clf = *b"00/Jan/0000:00:00:00 +0000";
        clf[..2].copy_from_slice(&date[8..10]);
        let name = (month as usize - 1) * 3;
        clf[3..6].copy_from_slice(&MONTHS[name..name + 3]);
        clf[7..11].copy_from_slice(&date[..4]);
        clf[12..20].copy_from_slice(&date[11..]);
        clf[21..24].copy_from_slice(&zone[..3]);
        clf[24..].copy_from_slice(&zone[4..]);
        Self { seconds, offset, date, zone, clf }
    }
}

fn digit(value: u32) -> u8 {
    b'0' + (value % 10) as u8
}

fn push_fraction(line: &mut Vec<u8>, nanos: u32) {
    if nanos == 0 {
        return;
    }
    let mut digits = [b'.'; 10];
    let mut rest = nanos;
    for place in digits[1..].iter_mut().rev() {
        *place = digit(rest);
        rest /= 10;
    }
    let end = digits.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1);
    line.extend_from_slice(&digits[..end]);
}

thread_local! {
    /// The last seconds asked for: one in UTC, one in local time; start and end of a request may lie in two.
    static SECONDS: RefCell<[Option<Second>; 4]> = const { RefCell::new([const { None }; 4]) };
}

fn with_second(seconds: i64, offset: i32, write: impl FnOnce(&Second)) {
    SECONDS.with_borrow_mut(|kept| {
        let slot = &mut kept[(seconds & 1) as usize * 2 + usize::from(offset != 0)];
        match slot {
            Some(second) if second.seconds == seconds && second.offset == offset => write(second),
            _ => write(slot.insert(Second::new(seconds, offset))),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn check(write: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let mut line = Vec::new();
        write(&mut line);
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn forms() {
        let at = |seconds: u64, nanos: u32| Moment::of(UNIX_EPOCH + Duration::new(seconds, nanos));
        check(|line| at(0, 0).push_rfc3339_nanos(line, 0), "1970-01-01T00:00:00Z");
        check(|line| at(1_709_210_096, 120_000_000).push_rfc3339_nanos(line, 0), "2024-02-29T12:34:56.12Z");
        check(|line| at(1_709_210_096, 1).push_rfc3339_nanos(line, 3600), "2024-02-29T13:34:56.000000001+01:00");
        check(|line| at(1_709_210_096, 999_999_999).push_rfc3339_millis(line, 0), "2024-02-29T12:34:56.999Z");
        check(|line| at(1_709_210_096, 5).push_rfc3339(line, -12600), "2024-02-29T09:04:56-03:30");
        check(|line| at(1_709_210_096, 5).push_clf(line, 0), "29/Feb/2024:12:34:56 +0000");
        check(|line| at(1_709_210_096, 5).push_clf(line, -12600), "29/Feb/2024:09:04:56 -0330");
        check(|line| Moment::of(UNIX_EPOCH - Duration::from_secs(9)).push_rfc3339(line, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_709_210_096, 7_000_000).file_stamp(), "2024-02-29T12-34-56.007");
    }
}
