//! Names of disks, images and digests (section 1).

/// The name of an image or of digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileName {
    pub(super) disk: String,
    pub(super) run: u64,
    /// The first half of the unique part.
    pub(super) mark: String,
    pub(super) is_image: bool,
}

impl FileName {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let image = name.strip_suffix(".qcow2");
        let stem = image.or_else(|| name.strip_suffix(".digests"))?;
        let (stem, unique) = stem.rsplit_once('-')?;
        let (disk, run) = stem.rsplit_once('.')?;
        if unique.len() != 16 || !is_hex(unique) || !is_disk(disk) {
            return None;
        }
        Some(Self {
            disk: disk.to_owned(),
            run: run
                .parse()
                .ok()
                .filter(|number: &u64| number.to_string() == run)?,
            mark: unique[..8].to_owned(),
            is_image: image.is_some(),
        })
    }
}

pub(super) fn is_disk(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let begins = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic());
    begins && name.len() <= 128 && name.bytes().all(allowed)
}

pub(super) fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The number of a padded key.
pub(super) fn number_key(key: &str) -> Result<u64, String> {
    let number = key
        .parse()
        .ok()
        .filter(|number: &u64| format!("{number:020}") == key);
    number.ok_or_else(|| format!("{key}: not a padded number"))
}
