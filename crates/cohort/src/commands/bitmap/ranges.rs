//! Dirty ranges as text: lines "offset length", and the JSON of `nbdinfo --map`.

use std::fmt;
use std::io::{self, BufRead, Read, Write};

use cohort_bitmap::{DirtyBitmap, RangeError};
use serde::de::{self, DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::human;

/// A line of two numbers is much shorter; what is longer is no list.
const LONGEST_LINE: u64 = 1024;

/// One entry of a map, with the names that `nbdinfo` gives them.
#[derive(Debug, Serialize, Deserialize)]
struct Extent {
    offset: u64,
    length: u64,
    #[serde(rename = "type")]
    kind: u64,
    description: Option<String>,
}

/// Why something was not read as ranges of a disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum RangesError {
    /// A line breaks a rule.
    #[error("line {line}: {rule}")]
    Line { line: u64, rule: String },
    /// The map is no JSON, or an entry breaks a rule; says at which line and column.
    #[error("the map: {0}")]
    Map(serde_json::Error),
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Writes the dirty ranges, a line each.
pub(super) fn write_list(bits: &DirtyBitmap, out: &mut dyn Write) -> io::Result<()> {
    for run in bits.runs() {
        writeln!(out, "{} {}", run.offset, run.length)?;
    }
    Ok(())
}

/// Writes the whole disk, as `nbdinfo --map=qemu:dirty-bitmap:NAME --json` does.
pub(super) fn write_map(bits: &DirtyBitmap, out: &mut dyn Write) -> io::Result<()> {
    let mut before = "[\n";
    let mut entry = |offset: u64, end: u64, kind: u8, description: &str| -> io::Result<()> {
        if offset == end {
            return Ok(());
        }
        let length = end - offset;
        write!(
            out,
            "{before}{{ \"offset\": {offset}, \"length\": {length}, \"type\": {kind}, \"description\": \"{description}\"}}"
        )?;
        before = ",\n";
        Ok(())
    };
    let mut at = 0;
    for run in bits.runs() {
        entry(at, run.offset, 0, "clean")?;
        entry(run.offset, run.end(), 1, "dirty")?;
        at = run.end();
    }
    entry(at, bits.size(), 0, "clean")?;
    writeln!(out, "{}]", if bits.size() == 0 { "[" } else { "\n" })
}

/// Marks in `bits` what `input` gives, in either form; granules of which any byte is given become dirty.
///
/// # Errors
/// The place and the rule. `bits` is then of no use.
pub(super) fn read(mut input: impl BufRead, bits: &mut DirtyBitmap) -> Result<(), RangesError> {
    let mut line = 1;
    loop {
        // Which form it is shows in the first letter that is no space.
        let buffer = input.fill_buf()?;
        let Some(first) = buffer.first().copied() else {
            return Ok(());
        };
        match first {
            b'[' | b'{' => return read_map(input, bits).map_err(RangesError::Map),
            b'\n' => line += 1,
            _ if first.is_ascii_whitespace() => {}
            _ => return read_list(input, line, bits),
        }
        input.consume(1);
    }
}

fn read_list(
    mut input: impl BufRead,
    first: u64,
    bits: &mut DirtyBitmap,
) -> Result<(), RangesError> {
    let mut bytes = Vec::new();
    for line in first.. {
        bytes.clear();
        if (&mut input)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut bytes)?
            == 0
        {
            break;
        }
        let text = if bytes.len() as u64 == LONGEST_LINE {
            Err("it is too long for a range: lines are \"offset length\"".to_owned())
        } else {
            std::str::from_utf8(&bytes).map_err(|_| "it is no text".to_owned())
        };
        text.and_then(|text| read_line(text, bits))
            .map_err(|rule| RangesError::Line { line, rule })?;
    }
    Ok(())
}

/// Reads one line; an empty one, and one that begins with `#`, says nothing.
fn read_line(text: &str, bits: &mut DirtyBitmap) -> Result<(), String> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(());
    }
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [offset, length] = words[..] else {
        let map = match words.len() {
            4 => "; nbdinfo's map is read as JSON (nbdinfo --map --json)",
            _ => "",
        };
        return Err(format!(
            "\"{}\" is no range: lines are \"offset length\", in bytes{map}",
            text.escape_debug()
        ));
    };
    mark(
        human::parse_bytes(offset)?,
        human::parse_bytes(length)?,
        bits,
    )
}

/// Marks a range, which must have bytes and lie on the disk.
fn mark(offset: u64, length: u64, bits: &mut DirtyBitmap) -> Result<(), String> {
    inside(offset, length, bits.size())?;
    bits.set(offset, length)
        .map_err(|error: RangeError| error.to_string())
}

/// Gives the end of a range, which must have bytes and lie on a disk of `size` bytes.
fn inside(offset: u64, length: u64, size: u64) -> Result<u64, String> {
    if length == 0 {
        return Err(format!("the range at byte {offset} has no bytes"));
    }
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(end),
        _ => Err(format!(
            "{length} bytes at byte {offset} are not all on the disk, which has {size}"
        )),
    }
}

fn read_map(input: impl BufRead, bits: &mut DirtyBitmap) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_reader(input);
    Map(bits).deserialize(&mut reader)?;
    reader.end()
}

/// A map that is marked in a bitmap as it is read: however long it is, it takes no memory.
struct Map<'a>(&'a mut DirtyBitmap);

impl<'de> DeserializeSeed<'de> for Map<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Map<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries with offset, length, type and description")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let size = self.0.size();
        let mut at = 0;
        while let Some(extent) = entries.next_element::<Extent>()? {
            at = take(&extent, at, self.0).map_err(de::Error::custom)?;
        }
        if at < size {
            return Err(de::Error::custom(untold(at, size)));
        }
        Ok(())
    }
}

/// Marks one entry of a map of which all before byte `at` was told, and gives its end.
fn take(extent: &Extent, at: u64, bits: &mut DirtyBitmap) -> Result<u64, String> {
    let Extent {
        offset,
        length,
        kind,
        ref description,
    } = *extent;
    let end = inside(offset, length, bits.size())?;
    if offset > at {
        return Err(untold(at, offset));
    }
    if offset < at {
        return Err(format!(
            "the entry at byte {offset} lies within what was told before, up to byte {at}"
        ));
    }
    match (kind, description.as_deref()) {
        (0, None | Some("clean")) => {}
        (1, None | Some("dirty")) => mark(offset, length, bits)?,
        _ => {
            let description = description.as_deref().unwrap_or_default();
            return Err(format!(
                "type {kind} \"{}\" is not of a dirty bitmap, whose types are 0 \"clean\" and 1 \"dirty\": take the map \
                 of qemu:dirty-bitmap:NAME",
                description.escape_debug()
            ));
        }
    }
    Ok(end)
}

fn untold(from: u64, to: u64) -> String {
    format!(
        "the map says nothing of bytes {from} to {to} of this disk: a map tells of every byte, lines \"offset length\" of \
         what is dirty"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use cohort_bitmap::Granularity;

    fn bitmap(size: u64, granularity: u64) -> DirtyBitmap {
        let granularity = Granularity::new(granularity).expect("a power of two");
        DirtyBitmap::new(size, granularity).expect("a small disk")
    }

    fn parsed(text: &str) -> Result<String, String> {
        let mut bits = bitmap(10_000, 1024);
        read(text.as_bytes(), &mut bits).map_err(|error| error.to_string())?;
        Ok(bits.to_row())
    }

    #[test]
    fn both_forms_are_read_as_they_are_written() {
        for row in ["0000000000", "1111111111", "0110000001", "1000000000"] {
            let mut bits = bitmap(10_000, 1024);
            for (granule, bit) in (0..).zip(row.chars()) {
                if bit == '1' {
                    bits.set(granule * 1024, 1).expect("on the disk");
                }
            }
            let (mut list, mut map) = (Vec::new(), Vec::new());
            write_list(&bits, &mut list).expect("memory");
            write_map(&bits, &mut map).expect("memory");
            for text in [list, map] {
                let text = String::from_utf8(text).expect("text");
                assert_eq!(parsed(&text).as_deref(), Ok(row), "{text}");
            }
        }
    }

    #[test]
    fn the_map_is_that_of_nbdinfo() {
        let mut bits = bitmap(10_000, 1024);
        bits.set(2000, 100).expect("on the disk");
        let mut map = Vec::new();
        write_map(&bits, &mut map).expect("memory");
        assert_eq!(
            String::from_utf8(map).expect("text"),
            "[\n\
             { \"offset\": 0, \"length\": 1024, \"type\": 0, \"description\": \"clean\"},\n\
             { \"offset\": 1024, \"length\": 2048, \"type\": 1, \"description\": \"dirty\"},\n\
             { \"offset\": 3072, \"length\": 6928, \"type\": 0, \"description\": \"clean\"}\n\
             ]\n"
        );
    }

    #[test]
    fn lists_round_outward_and_may_say_things_twice() {
        let text = "\n# what changed\r\n 1023 2 \r\n0 1\n9K 500\n0 1";
        assert_eq!(parsed(text).as_deref(), Ok("1100000001"));
    }

    #[test]
    fn a_bad_line_is_told_with_its_number_and_the_rule() {
        let told = |text: &str, parts: &[&str]| {
            let error = parsed(text).expect_err(text);
            for part in parts {
                assert!(error.contains(part), "'{part}' is missing in: {error}");
            }
        };
        told("0 1\n\n7\n", &["line 3", "offset length"]);
        told("\n\n0 1 1 dirty", &["line 3", "nbdinfo --map --json"]);
        told("0 -5", &["line 1", "'-5' is not a byte count"]);
        told("5 0", &["line 1", "has no bytes"]);
        told("9999 2", &["line 1", "not all on the disk", "10000"]);
        told("18446744073709551615 18446744073709551615", &["not all on"]);
        told(&"1".repeat(5000), &["line 1", "too long"]);
        told("0 \u{1}", &["line 1"]);
    }

    #[test]
    fn a_bad_map_is_told_with_its_place_and_the_rule() {
        let told = |text: &str, parts: &[&str]| {
            let error = parsed(text).expect_err(text);
            for part in parts {
                assert!(error.contains(part), "'{part}' is missing in: {error}");
            }
        };
        let whole = r#"{"offset":0,"length":10000,"type":0,"description":"clean"}"#;
        told("[", &["EOF"]);
        told("[]", &["says nothing of bytes 0 to 10000"]);
        told("{}", &["a list of entries"]);
        told(&format!("[{whole}] x"), &["trailing"]);
        told(
            &format!("[{whole},\n{whole}]"),
            &["within what was told before", "line 2"],
        );
        told(
            r#"[{"offset":5,"length":9995,"type":1}]"#,
            &["bytes 0 to 5"],
        );
        told(
            r#"[{"offset":0,"length":5,"type":1}]"#,
            &["bytes 5 to 10000"],
        );
        told(r#"[{"offset":0,"length":10001,"type":1}]"#, &["not all on"]);
        told(
            r#"[{"offset":0,"length":10000,"type":3,"description":"hole,zero"}]"#,
            &["type 3 \"hole,zero\"", "qemu:dirty-bitmap"],
        );
        told(r#"[{"offset":0,"length":1}]"#, &["type"]);
        told(r#"[{"offset":-1,"length":1,"type":0}]"#, &["-1"]);
    }
}
