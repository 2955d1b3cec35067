//! What a disk is called if nobody says.

use std::path::Path;

/// Endings that say what a file is and not what the disk is called.
const IMAGE_ENDINGS: [&str; 6] = ["qcow2", "qcow", "raw", "img", "image", "bin"];

/// A disk name made from a file name: the last part of the path, without the ending of an image, with every
/// character that a name may not have replaced by a dash. `None` if nothing of it is left.
pub(crate) fn name_from(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = match file.rsplit_once('.') {
        Some((stem, ending))
            if !stem.is_empty()
                && IMAGE_ENDINGS.contains(&ending.to_ascii_lowercase().as_str()) =>
        {
            stem
        }
        _ => file,
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let mut name: String = stem
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .collect();
    if !name.contains(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        name.insert_str(0, "disk-");
    }
    name.truncate(crate::catalogue::DISK_NAME_MAX);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_file_names() {
        for (path, name) in [
            ("/vm/root.qcow2", Some("root")),
            ("data.RAW", Some("data")),
            ("/dev/vg0/home", Some("home")),
            ("my disk (1).img", Some("my-disk--1-")),
            ("2024.img", Some("disk-2024")),
            ("a.1.raw", Some("a.1")),
            ("notes.txt", Some("notes.txt")),
            (".img", Some("disk-.img")),
            ("platte-ä.raw", Some("platte--")),
            ("ä.raw", None),
            ("/", None),
            ("..", None),
        ] {
            assert_eq!(name_from(Path::new(path)).as_deref(), name, "{path}");
        }
    }
}
