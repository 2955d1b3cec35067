//! Names: disks, runs, image files, points. What a name may be is said here and nowhere else.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest disk name, in bytes: together with the run number and the unique part it has to fit
/// into one file name of 255 bytes, with room to spare.
pub const DISK_NAME_MAX: usize = 128;

/// The name of a disk in a backup directory.
///
/// QEMU's rule for ids, so that a disk and its job may carry the same name: a letter first, then
/// letters, digits, `-`, `.` and `_` (all ASCII); at most [`DISK_NAME_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskName(String);

/// Why a text is not a [`DiskName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadDiskName {
    /// No character at all.
    #[error("a disk name may not be empty")]
    Empty,
    /// The first character is not a letter.
    #[error("disk name {0:?} must begin with a letter (A-Z, a-z)")]
    FirstNotALetter(String),
    /// A character outside the rule.
    #[error("disk name {0:?} may not contain {1:?}: only letters, digits, '-', '.' and '_'")]
    Character(String, char),
    /// More than [`DISK_NAME_MAX`] bytes.
    #[error("disk name {0:?} is longer than {DISK_NAME_MAX} characters")]
    TooLong(String),
}

impl DiskName {
    /// Checks `name` against the rule.
    ///
    /// # Errors
    /// [`BadDiskName`] names the part of the rule that is broken.
    pub fn new(name: impl Into<String>) -> Result<Self, BadDiskName> {
        let name = name.into();
        let Some(first) = name.chars().next() else {
            return Err(BadDiskName::Empty);
        };
        if !first.is_ascii_alphabetic() {
            return Err(BadDiskName::FirstNotALetter(name));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if let Some(wrong) = name.chars().find(|&c| !allowed(c)) {
            return Err(BadDiskName::Character(name, wrong));
        }
        if name.len() > DISK_NAME_MAX {
            return Err(BadDiskName::TooLong(name));
        }
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The number of a run in its backup directory, from 1. The points of one run share it, so that
/// `root@7` and `data@7` were taken together.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct RunId(pub u64);

/// What tells one backup directory from every other: 128 random bits, written as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DirectoryId(u128);

impl DirectoryId {
    /// A new id.
    #[must_use]
    pub fn random() -> Self {
        Self(u128::from(random_u64()) << 64 | u128::from(random_u64()))
    }

    /// The id as bytes, in the order of its digits: the owner of its sets in tracking stores.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The first 32 bits: the mark that this directory's image files carry in their names.
    #[must_use]
    pub const fn mark(self) -> u32 {
        (self.0 >> 96) as u32
    }
}

/// What a file of ours holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A disk image.
    Image,
    /// Digests of an image's clusters.
    Digests,
}

impl FileKind {
    /// What its name ends in.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Image => ".qcow2",
            Self::Digests => ".digests",
        }
    }
}

/// The name of a file of ours: `<disk>.<run>-<unique>.qcow2` for an image, and the same with `.digests` for the digests
/// of one (which has another unique part: a file of digests is written once, an image may grow).
///
/// `run` is decimal, at least 1, without leading zeros; `unique` is sixteen lower-case hex digits:
/// eight of the directory's mark ([`DirectoryId::mark`]), eight random. The mark keeps files that
/// were copied here from another backup directory from ever being taken for our garbage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    disk: DiskName,
    run: RunId,
    unique: u64,
    kind: FileKind,
}

impl ImageName {
    /// A name for a new file of `disk` in `run`, in the directory with that id.
    #[must_use]
    pub fn fresh(disk: DiskName, run: RunId, directory: DirectoryId, kind: FileKind) -> Self {
        let unique = u64::from(directory.mark()) << 32 | (random_u64() & 0xffff_ffff);
        Self {
            disk,
            run,
            unique,
            kind,
        }
    }

    /// What the file holds.
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        self.kind
    }

    /// The disk it is an image of.
    #[must_use]
    pub const fn disk(&self) -> &DiskName {
        &self.disk
    }

    /// The run that created it.
    #[must_use]
    pub const fn run(&self) -> RunId {
        self.run
    }

    /// Whether it carries the mark of that directory.
    #[must_use]
    pub(crate) const fn belongs_to(&self, directory: DirectoryId) -> bool {
        (self.unique >> 32) as u32 == directory.mark()
    }
}

/// A text that is not an image file's name, or not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct BadName {
    /// What was given.
    pub text: String,
    /// What it should have been.
    pub expected: &'static str,
}

/// A point as people name it: `DISK`, `DISK@latest` or `DISK@N`, with `N` the number of its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointName {
    /// The disk.
    pub disk: DiskName,
    /// Which of its points.
    pub which: Which,
}

/// Which point of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Latest,
    /// The one that this run took.
    Run(RunId),
}

/// Why a text is not a [`PointName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPointName {
    /// The part before `@` is not a disk name.
    #[error(transparent)]
    Disk(#[from] BadDiskName),
    /// The part behind `@` is neither `latest` nor a number from 1.
    #[error("{0:?} does not name a point: write DISK@N with a number from 1, or DISK@latest")]
    Point(String),
}

impl FromStr for PointName {
    type Err = BadPointName;

    fn from_str(text: &str) -> Result<Self, BadPointName> {
        let (disk, which) = match text.split_once('@') {
            None => (text, Which::Latest),
            Some((disk, "latest")) => (disk, Which::Latest),
            Some((disk, number)) => match decimal(number) {
                Some(number) => (disk, Which::Run(RunId(number))),
                None => return Err(BadPointName::Point(text.to_owned())),
            },
        };
        Ok(Self {
            disk: DiskName::new(disk)?,
            which,
        })
    }
}

impl FromStr for ImageName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        parse_image(text).ok_or_else(|| BadName {
            text: text.to_owned(),
            expected: "an image file name (<disk>.<run>-<16 hex digits>.qcow2)",
        })
    }
}

impl FromStr for DirectoryId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName {
            text: text.to_owned(),
            expected: "a directory id (32 hex digits)",
        };
        if text.len() != 32 || !text.bytes().all(is_lower_hex) {
            return Err(bad());
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| bad())
    }
}

impl FromStr for DiskName {
    type Err = BadDiskName;

    fn from_str(text: &str) -> Result<Self, BadDiskName> {
        Self::new(text)
    }
}

impl TryFrom<String> for DiskName {
    type Error = BadDiskName;

    fn try_from(text: String) -> Result<Self, BadDiskName> {
        Self::new(text)
    }
}

impl TryFrom<String> for ImageName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl TryFrom<String> for DirectoryId {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<DiskName> for String {
    fn from(name: DiskName) -> Self {
        name.0
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.to_string()
    }
}

impl From<DirectoryId> for String {
    fn from(id: DirectoryId) -> Self {
        id.to_string()
    }
}

impl AsRef<str> for DiskName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectoryId({self})")
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = self.kind.suffix();
        write!(f, "{}.{}-{:016x}{suffix}", self.disk, self.run, self.unique)
    }
}

impl fmt::Display for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.which {
            Which::Latest => write!(f, "{}@latest", self.disk),
            Which::Run(run) => write!(f, "{}@{run}", self.disk),
        }
    }
}

/// Read from the right: the disk's own name may hold dots and dashes.
fn parse_image(text: &str) -> Option<ImageName> {
    let kind = [FileKind::Image, FileKind::Digests]
        .into_iter()
        .find(|kind| text.ends_with(kind.suffix()))?;
    let rest = text.strip_suffix(kind.suffix())?;
    let (rest, unique) = rest.rsplit_once('-')?;
    let (disk, run) = rest.rsplit_once('.')?;
    if unique.len() != 16 || !unique.bytes().all(is_lower_hex) {
        return None;
    }
    Some(ImageName {
        disk: DiskName::new(disk).ok()?,
        run: RunId(decimal(run)?),
        unique: u64::from_str_radix(unique, 16).ok()?,
        kind,
    })
}

/// A number from 1 in its one spelling: digits only, no leading zero.
fn decimal(text: &str) -> Option<u64> {
    if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

const fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Each `RandomState` of a thread hashes with another key, and the first key comes from the
/// operating system: enough for names that `create_new` guards anyway.
fn random_u64() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn disk_names_follow_the_id_rule() {
        for good in [
            "a",
            "Z",
            "vda",
            "root-disk_1.img",
            &"x".repeat(DISK_NAME_MAX),
        ] {
            assert_eq!(DiskName::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "1a", "-a", ".", "..", "a/b", "a b", "a@1", "ä", "aä", "a\0",
        ] {
            assert!(DiskName::new(bad).is_err(), "{bad:?}");
        }
        assert!(DiskName::new("x".repeat(DISK_NAME_MAX + 1)).is_err());
    }

    #[test]
    fn near_misses_are_not_image_names() {
        let good = "vda.12-0123456789abcdef.qcow2";
        assert_eq!(good.parse::<ImageName>().unwrap().to_string(), good);
        for bad in [
            "vda.12-0123456789abcdef.qcow",
            "vda.12-0123456789abcdef.qcow2.bak",
            "vda.12-0123456789ABCDEF.qcow2",
            "vda.12-0123456789abcde.qcow2",
            "vda.12-0123456789abcdef0.qcow2",
            "vda.012-0123456789abcdef.qcow2",
            "vda.0-0123456789abcdef.qcow2",
            "vda.+12-0123456789abcdef.qcow2",
            "vda.-0123456789abcdef.qcow2",
            "vda-0123456789abcdef.qcow2",
            "1da.12-0123456789abcdef.qcow2",
            ".12-0123456789abcdef.qcow2",
            "vda.99999999999999999999-0123456789abcdef.qcow2",
            "vda.12-+123456789abcdef.qcow2",
            "catalogue.redb",
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn fresh_names_belong_to_their_directory_and_differ() {
        let (here, there) = (DirectoryId::random(), DirectoryId::random());
        let disk = DiskName::new("vda").unwrap();
        let one = ImageName::fresh(disk.clone(), RunId(1), here, FileKind::Image);
        let two = ImageName::fresh(disk, RunId(1), here, FileKind::Image);
        assert_ne!(one, two);
        assert!(one.belongs_to(here) && !one.belongs_to(there));
    }

    #[test]
    fn points_are_named_by_number_or_latest() {
        let name = |text: &str| text.parse::<PointName>();
        assert_eq!(name("vda").unwrap().which, Which::Latest);
        assert_eq!(name("vda@latest").unwrap().which, Which::Latest);
        assert_eq!(name("vda@3").unwrap().which, Which::Run(RunId(3)));
        for bad in ["vda@", "vda@0", "vda@03", "vda@-1", "vda@3@4", "@3", ""] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn image_names_read_back(
            disk in "[A-Za-z][A-Za-z0-9._-]{0,30}", run in 1..=u64::MAX, unique: u64,
        ) {
            let disk = DiskName::new(disk).unwrap();
            for kind in [FileKind::Image, FileKind::Digests] {
                let name = ImageName { disk: disk.clone(), run: RunId(run), unique, kind };
                prop_assert_eq!(name.to_string().parse::<ImageName>().unwrap(), name);
            }
        }

        #[test]
        fn whatever_parses_is_spelled_that_way(text in "[a-z0-9.-]{0,4}[.][0-9]{1,3}-[0-9a-f]{16}[.]qcow2") {
            if let Ok(name) = text.parse::<ImageName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
