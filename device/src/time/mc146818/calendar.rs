//! Time registers to seconds since 1970 and back, in BCD or binary, 12 or 24 hours.

use super::CENTURY;

const DAY: i64 = 86_400;
const PM: u8 = 0x80;
/// Alarm registers with both top bits set match everything.
const DONT_CARE: u8 = 0xc0;

/// How the registers hold numbers (register B, bits DM and 24/12).
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub(super) binary: bool,
    pub(super) hours24: bool,
}

/// Hour, minute and second of a daily alarm; `None` matches every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alarm {
    hour: Option<i64>,
    minute: Option<i64>,
    second: Option<i64>,
}

impl Alarm {
    /// Seconds from `now` (since 1970) to the next match after it, at most a day.
    pub(super) fn seconds_after(&self, now: i64) -> Option<u64> {
        let first = now.rem_euclid(DAY) + 1;
        // The first matching second of the day at or after `from`, below `to`.
        let within = |from: i64, to: i64| {
            let matches = |wanted: Option<i64>, value: i64| wanted.is_none_or(|w| w == value);
            (from / 3600..24).filter(|h| matches(self.hour, *h)).find_map(|h| {
                (0..60).filter(|m| matches(self.minute, *m)).find_map(|m| {
                    let base = h * 3600 + m * 60;
                    let s = match self.second {
                        Some(s) => base + s,
                        None => base.max(from),
                    };
                    (s >= from && s < to && s < base + 60).then_some(s)
                })
            })
        };
        let at = match within(first, DAY) {
            Some(at) => at,
            None => within(0, first)? + DAY,
        };
        u64::try_from(at + 1 - first).ok()
    }
}

impl Format {
    fn number(self, register: u8) -> Option<i64> {
        if self.binary {
            return Some(register.into());
        }
        let (tens, ones) = (register >> 4, register & 0xf);
        (tens < 10 && ones < 10).then_some(i64::from(tens * 10 + ones))
    }

    fn register(self, number: i64) -> u8 {
        let number = number.rem_euclid(100) as u8;
        if self.binary { number } else { ((number / 10) << 4) | (number % 10) }
    }

    fn hour(self, register: u8) -> Option<i64> {
        if self.hours24 {
            return self.number(register).filter(|h| *h < 24);
        }
        let hour = self.number(register & !PM).filter(|h| (1..=12).contains(h))?;
        Some(hour % 12 + if register & PM != 0 { 12 } else { 0 })
    }

    fn hour_register(self, hour: i64) -> u8 {
        if self.hours24 {
            return self.register(hour);
        }
        let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.register(twelve) | if hour >= 12 { PM } else { 0 }
    }

    /// The alarm of the hour, minute and second registers; `None` if it can never match.
    pub(super) fn alarm(self, registers: [u8; 3]) -> Option<Alarm> {
        let [hour, minute, second] = registers;
        let field = |register: u8, value: Option<i64>| {
            if register & DONT_CARE == DONT_CARE { Some(None) } else { value.map(Some) }
        };
        let below_60 = |register| self.number(register).filter(|n| *n < 60);
        Some(Alarm {
            hour: field(hour, self.hour(hour))?,
            minute: field(minute, below_60(minute))?,
            second: field(second, below_60(second))?,
        })
    }

    /// The time registers at `seconds` since 1970.
    pub(super) fn encode(self, seconds: i64) -> [(usize, u8); 8] {
        let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        let (year, month, day) = civil_from_days(days);
        [
            (0, self.register(second % 60)),
            (2, self.register(second / 60 % 60)),
            (4, self.hour_register(second / 3600)),
            (6, self.register((days + 4).rem_euclid(7) + 1)), // 1970-01-01 was a Thursday; Sunday is 1
            (7, self.register(day)),
            (8, self.register(month)),
            (9, self.register(year)),
            (CENTURY, self.register(year.div_euclid(100))),
        ]
    }

    /// Seconds since 1970 of the time registers; `None` if they are no date.
    pub(super) fn decode(self, cmos: &[u8; 128]) -> Option<i64> {
        let in_range = |register: usize, low: i64, high: i64| {
            self.number(cmos[register]).filter(|n| (low..=high).contains(n))
        };
        let (second, minute, hour) = (in_range(0, 0, 59)?, in_range(2, 0, 59)?, self.hour(cmos[4])?);
        let (day, month) = (in_range(7, 1, 31)?, in_range(8, 1, 12)?);
        let year = in_range(CENTURY, 0, 99)? * 100 + in_range(9, 0, 99)?;
        Some(days_from_civil(year, month, day) * DAY + hour * 3600 + minute * 60 + second)
    }
}

/// Days since 1970 of a date in the proleptic Gregorian calendar. Years are counted from March, so that the
/// leap day is the last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

/// The inverse: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * of_era + of_era / 4 - of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (month, day) = ((shifted + 2) % 12 + 1, day_of_year - (153 * shifted + 2) / 5 + 1);
    (era * 400 + of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BCD: Format = Format { binary: false, hours24: true };

    #[test]
    fn known_dates() {
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(11_016), (2000, 2, 29));
        assert_eq!(days_from_civil(2024, 3, 1), 19_783);
        let registers = BCD.encode(951_827_696); // 2000-02-29 12:34:56, a Tuesday
        assert_eq!(
            registers,
            [(0, 0x56), (2, 0x34), (4, 0x12), (6, 3), (7, 0x29), (8, 2), (9, 0), (CENTURY, 0x20)]
        );
    }

    #[test]
    fn alarms() {
        let noon = BCD.alarm([0x12, 0, 0]).unwrap();
        assert_eq!(noon.seconds_after(0), Some(12 * 3600));
        assert_eq!(noon.seconds_after(12 * 3600), Some(86_400), "the second itself is over");
        let minutely = BCD.alarm([0xff, 0xff, 0x30]).unwrap();
        assert_eq!(minutely.seconds_after(29), Some(1));
        assert_eq!(minutely.seconds_after(30), Some(60));
        let always = BCD.alarm([0xc0, 0xc0, 0xc0]).unwrap();
        assert_eq!(always.seconds_after(86_399), Some(1));
        assert_eq!(BCD.alarm([0x24, 0, 0]), None, "never");
    }

    proptest! {
        #[test]
        fn time_survives_the_registers(
            seconds in 0..253_402_300_800i64, binary: bool, hours24: bool,
        ) {
            let format = Format { binary, hours24 };
            let mut cmos = [0; 128];
            for (register, value) in format.encode(seconds) {
                cmos[register] = value;
            }
            prop_assert_eq!(format.decode(&cmos), Some(seconds));
        }

        #[test]
        fn an_alarm_is_found_where_a_search_finds_it(
            now in 0..10_000_000i64, h in 0..26i64, m in 0..63i64, s in 0..63i64,
        ) {
            let any = |n: i64, limit: i64| (n < limit).then_some(n);
            let alarm = Alarm { hour: any(h, 24), minute: any(m, 60), second: any(s, 60) };
            let matches = |t: i64| {
                let t = t.rem_euclid(DAY);
                alarm.hour.is_none_or(|h| h == t / 3600)
                    && alarm.minute.is_none_or(|m| m == t / 60 % 60)
                    && alarm.second.is_none_or(|s| s == t % 60)
            };
            let found = (1..=DAY).find(|d| matches(now + d)).map(|d| d as u64);
            prop_assert_eq!(alarm.seconds_after(now), found);
        }
    }
}
