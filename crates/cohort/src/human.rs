//! Numbers as people write and read them: byte counts, rates, durations.

use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Units of 1024, smallest first.
const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// `bytes` with three significant digits and a binary unit: `1.50 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would print as 1000 with three digits, so the next unit starts there.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let places = if unit == 0 { 0 } else { places(value) };
    format!("{value:.places$} {}", UNITS[unit])
}

/// A short time, given in nanoseconds, with three significant digits: `1.05 ms`.
#[cfg(feature = "top")]
pub(crate) fn brief(nanos: u64) -> String {
    let units = [("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)];
    let nanos = nanos as f64;
    // 999.5 of a unit would have four digits.
    let fits = |(_, unit): &&(&str, f64)| nanos / unit < 999.5;
    let (name, unit) = units.iter().find(fits).unwrap_or(&units[3]);
    let value = nanos / unit;
    let places = if *unit == 1.0 { 0 } else { places(value) };
    format!("{value:.places$} {name}")
}

/// Places after the point that make three digits of a value below 1000.
fn places(value: f64) -> usize {
    match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    }
}

/// A number of things, its thousands apart: `4,096`.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share of one as a percentage with two significant digits, rounded up: `0.074 %`.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let places = (1.0 - percent.max(1e-9).log10().floor()).max(0.0) as i32;
    let scale = 10_f64.powi(places);
    format!("{:.*} %", places as usize, (percent * scale).ceil() / scale)
}

/// A span of time in its two largest units: `1 h 02 min`, `3 min 20 s`, `12 s`, `0.4 s`.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..=9 => format!("{:.1} s", span.as_secs_f64()),
        10..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A moment, given in milliseconds since 1970 in UTC, in local time: `2026-11-23 02:00:13`.
pub(crate) fn time(unix_ms: u64) -> String {
    let stamp = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(
        || format!("{unix_ms} ms after 1970"),
        |stamp| {
            stamp
                .to_zoned(TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S")
                .to_string()
        },
    )
}

/// A byte count as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_bytes(text).map(Bytes)
    }
}

/// Reads a byte count: a whole number, optionally followed by K, M, G or T (powers of 1024).
///
/// # Errors
/// A sentence that names the text and the rule.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let rule = || {
        format!("'{text}' is not a byte count: give a whole number, optionally with K, M, G or T")
    };
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        Some((at, 't' | 'T')) => (&text[..at], 40),
        Some(_) => (text, 0),
        None => return Err(rule()),
    };
    let number: u64 = digits.parse().map_err(|_| rule())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("'{text}' is more bytes than there can be"))
}

/// Reads a time: a whole number with its unit, ms, s, m or h.
///
/// # Errors
/// A sentence that names the text and the rule.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let rule = || format!("'{text}' is not a time: give a whole number with ms, s, m or h");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit_ms: u64 = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err(rule()),
    };
    let number: u64 = digits.parse().map_err(|_| rule())?;
    let ms = number.checked_mul(unit_ms);
    ms.map(Duration::from_millis)
        .ok_or_else(|| format!("'{text}' is longer than time lasts"))
}

/// Reads a number of things, at least one.
///
/// # Errors
/// A sentence that names the text and the rule.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("'{text}' is not a number from 1 on")),
        Ok(count) => Ok(count),
    }
}

/// Reads `OFFSET:LENGTH`, both as [`parse_bytes`] does.
///
/// # Errors
/// A sentence that names the text and the rule.
pub(crate) fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let Some((offset, length)) = text.split_once(':') else {
        return Err(format!("'{text}' is not a range: give OFFSET:LENGTH"));
    };
    let (offset, length) = (parse_bytes(offset)?, parse_bytes(length)?);
    match offset.checked_add(length) {
        Some(end) if length > 0 => Ok(offset..end),
        Some(_) => Err(format!("'{text}' has no bytes")),
        None => Err(format!("'{text}' is more bytes than there can be")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{bytes, count, duration, parse_bytes, parse_duration, parse_range, percent};

    #[test]
    fn counts_and_shares_are_short() {
        assert_eq!(
            ["7", "999", "4,096", "1,048,576"],
            [7, 999, 4096, 1 << 20].map(count)
        );
        assert_eq!(percent(0.000_731_1), "0.074 %");
        assert_eq!(percent(0.2589), "26 %");
        assert_eq!(percent(0.95), "95 %");
    }

    #[cfg(feature = "top")]
    #[test]
    fn short_times_have_three_digits() {
        let told = [
            0,
            999,
            1_000,
            1_048_576,
            999_499_999,
            999_500_000,
            61_000_000_000,
        ]
        .map(super::brief);
        assert_eq!(
            told,
            [
                "0 ns", "999 ns", "1.00 µs", "1.05 ms", "999 ms", "1.00 s", "61.0 s"
            ]
        );
    }

    #[test]
    fn ranges_are_an_offset_and_a_length() {
        assert_eq!(parse_range("1K:2K"), Ok(1024..3072));
        assert_eq!(parse_range("0:1"), Ok(0..1));
        for bad in ["", "1", "1:0", "1:", ":1", "1:2:3", "16777215T:16777215T"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        let times = ["0s", "1500ms", "2s", "3m", "1h"].map(parse_duration);
        let seconds = [0.0, 1.5, 2.0, 180.0, 3600.0];
        assert_eq!(times, seconds.map(|s| Ok(Duration::from_secs_f64(s))));
        for bad in [
            "",
            "1",
            "s",
            "1.5s",
            "-1s",
            "1 s",
            "1d",
            "9999999999999999999s",
            "9999999999999999m",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_have_three_significant_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1000), "0.98 KiB");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(10 << 20), "10.0 MiB");
        assert_eq!(bytes(412 << 30), "412 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn durations_show_their_two_largest_units() {
        assert_eq!(duration(Duration::from_millis(400)), "0.4 s");
        assert_eq!(duration(Duration::from_secs(12)), "12 s");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_secs(3720)), "1 h 02 min");
        assert_eq!(duration(Duration::from_secs(90_000)), "1 d 01 h");
    }

    #[test]
    fn byte_counts_are_read_with_their_units() {
        assert_eq!(parse_bytes("0"), Ok(0));
        assert_eq!(parse_bytes("64K"), Ok(65_536));
        assert_eq!(parse_bytes("2g"), Ok(2 << 30));
        for bad in ["", "K", "-1", "1.5M", "12 M", "99999999999T", "ü"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
