//! Disks and policies as the command line gives them: `[NAME=]PATH`, `[NAME=]POLICY`.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cohort_backup::DiskSpec;
use cohort_backup::catalogue::DiskName;
use cohort_block::{Access, NbdDevice};
use cohort_nbd::Uri;

use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_open};

/// How long a request to an NBD server may take, connecting again included.
const SERVER_PATIENCE: Duration = Duration::from_secs(60);

/// A source as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The disk's name, if one was given.
    pub(super) name: Option<DiskName>,
    /// Where it is.
    pub(super) path: PathBuf,
}

/// A running machine as it was given: its monitor, and which of its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MachineSource {
    /// The monitor's socket.
    pub(super) monitor: PathBuf,
    /// Names to give, and words for nodes or devices; none means all disks.
    pub(super) disks: Vec<(Option<DiskName>, String)>,
}

/// What was given for one option: for all disks, and for some by name. What comes later wins, so that the command line has
/// the last word over a plan.
#[derive(Debug)]
pub(super) struct PerDisk<T> {
    option: &'static str,
    all: Option<T>,
    by_name: Vec<(DiskName, T)>,
}

/// Looks whether a text is `[NAME=]VALUE` for such values, so that what is wrong is told where it stands.
///
/// # Errors
/// As [`PerDisk::parse`].
pub(crate) fn per_disk<T>(text: &str) -> std::result::Result<String, String>
where
    T: FromStr<Err: Display>,
{
    split::<T>(text).map(|_| text.to_owned())
}

fn split<T: FromStr<Err: Display>>(
    text: &str,
) -> std::result::Result<(Option<DiskName>, T), String> {
    let value = |word: &str| {
        word.parse::<T>()
            .map_err(|error| format!("{text}: {error}"))
    };
    // A value may hold a `=` itself, behind its first comma.
    let head = text.split(',').next().unwrap_or_default();
    match head.split_once('=') {
        None => Ok((None, value(text)?)),
        Some((name, _)) => {
            let word = &text[name.len() + 1..];
            let name = DiskName::new(name).map_err(|error| format!("{text}: {error}"))?;
            Ok((Some(name), value(word)?))
        }
    }
}

impl Source {
    /// The path of the tracking store that a word after `--bitmap DISK=` means: one that ends in `.cohort`, as it stands
    /// if it has a slash, or else beside the disk. Any other word is that of a bitmap in the image.
    pub(super) fn tracking_store(&self, word: &str) -> Option<PathBuf> {
        let named = Path::new(word);
        named.extension().filter(|end| *end == "cohort")?;
        Some(if word.contains('/') {
            named.to_owned()
        } else {
            self.path.with_file_name(named)
        })
    }

    /// Reads `[NAME=]PATH`. A path that holds a `=` is a path if it exists as it stands, or if what is before the `=` is
    /// no name for a disk.
    pub(super) fn parse(text: &str) -> Source {
        let whole = Source {
            name: None,
            path: text.into(),
        };
        match text.split_once('=') {
            Some((name, path)) if !path.is_empty() && !Path::new(text).exists() => {
                match DiskName::new(name) {
                    Ok(name) => Source {
                        name: Some(name),
                        path: path.into(),
                    },
                    Err(_) => whole,
                }
            }
            _ => whole,
        }
    }

    /// What the disk is called: as given, or made from where it is.
    ///
    /// # Errors
    /// Nothing can be made from where it is.
    pub(super) fn disk_name(&self) -> Result<DiskName> {
        let spec = match self.address()? {
            Some(uri) => DiskSpec::file(uri.name.as_str()),
            None => DiskSpec::file(&self.path),
        };
        Ok(self.named(spec).disk_name()?)
    }

    /// The source as the library takes it. One at an NBD server is connected to.
    ///
    /// # Errors
    /// The address is none, or the server there cannot be used.
    pub(super) fn spec(&self) -> Result<DiskSpec> {
        let Some(uri) = self.address()? else {
            return Ok(self.named(DiskSpec::file(&self.path)));
        };
        let device = NbdDevice::connect(&uri, Access::ReadOnly, SERVER_PATIENCE)
            .map_err(|error| Failure::new(exit_of_open(&error), error))?;
        Ok(DiskSpec::device(Arc::new(device)).name(self.disk_name()?.as_str()))
    }

    /// Where it is at an NBD server, if it is at one.
    fn address(&self) -> Result<Option<Uri>> {
        let Some(text) = self.path.to_str().filter(|text| Uri::is_meant_by(text)) else {
            return Ok(None);
        };
        let wrong = |error| Failure::say(Exit::Usage, format_args!("{text}: {error}"));
        text.parse().map(Some).map_err(wrong)
    }

    fn named(&self, spec: DiskSpec) -> DiskSpec {
        match &self.name {
            Some(name) => spec.name(name.as_str()),
            None => spec,
        }
    }
}

impl MachineSource {
    /// Reads `qmp:SOCKET[,[NAME=]DISK…]`; nothing for what does not begin so.
    ///
    /// # Errors
    /// Names what is no name, and a machine without a socket.
    pub(super) fn parse(text: &str) -> Result<Option<MachineSource>> {
        let Some(rest) = text.strip_prefix("qmp:") else {
            return Ok(None);
        };
        let usage = |why: String| Failure::say(Exit::Usage, format_args!("{text}: {why}"));
        let mut parts = rest.split(',');
        let monitor = parts.next().filter(|path| !path.is_empty());
        let monitor = monitor.ok_or_else(|| usage("say qmp:SOCKET[,[NAME=]DISK…]".to_owned()))?;
        let disks = parts.map(|part| match part.split_once('=') {
            Some((name, word)) => match DiskName::new(name) {
                Ok(name) => Ok((Some(name), word.to_owned())),
                Err(error) => Err(usage(error.to_string())),
            },
            None => Ok((None, part.to_owned())),
        });
        Ok(Some(MachineSource {
            monitor: monitor.into(),
            disks: disks.collect::<Result<_>>()?,
        }))
    }
}

impl<T: FromStr<Err: Display> + Clone> PerDisk<T> {
    /// Reads `[NAME=]VALUE`, any number of them, given to `option`.
    ///
    /// # Errors
    /// Names the text that is no value or no name.
    pub(super) fn parse(option: &'static str, texts: &[String]) -> Result<Self> {
        let usage = |message: String| Failure::say(Exit::Usage, format_args!("{option} {message}"));
        let mut values = PerDisk {
            option,
            all: None,
            by_name: Vec::new(),
        };
        for text in texts {
            match split(text).map_err(usage)? {
                (None, value) => values.all = Some(value),
                (Some(name), value) => values.by_name.push((name, value)),
            }
        }
        Ok(values)
    }

    /// The value for a disk, if there is one.
    pub(super) fn of(&self, name: &DiskName) -> Option<T> {
        let named = self.by_name.iter().rfind(|(other, _)| other == name);
        named.map(|(_, value)| value).or(self.all.as_ref()).cloned()
    }

    /// Refuses a value for a disk that is not among `disks`: it is a typing error, and would do nothing.
    ///
    /// # Errors
    /// Names the disk and those there are.
    pub(super) fn all_used(&self, disks: &[DiskName]) -> Result<()> {
        let Some((name, _)) = self.by_name.iter().find(|(name, _)| !disks.contains(name)) else {
            return Ok(());
        };
        let said = format_args!("{} {name}=…", self.option);
        Err(no_such_disk(said, name, disks))
    }
}

/// The bitmaps that were named, for disks by name.
#[derive(Debug, Default)]
pub(super) struct NamedBitmaps(Vec<(DiskName, String)>);

impl NamedBitmaps {
    /// Reads `DISK=NAME`, any number of them.
    ///
    /// # Errors
    /// Names the text that is not of that form, and any disk that is given two.
    pub(super) fn parse(texts: &[String]) -> Result<NamedBitmaps> {
        let mut bitmaps = NamedBitmaps::default();
        for text in texts {
            let usage = |why: &dyn std::fmt::Display| {
                Failure::say(Exit::Usage, format_args!("--bitmap {text}: {why}"))
            };
            let (disk, name) = text
                .split_once('=')
                .filter(|(_, name)| !name.is_empty())
                .ok_or_else(|| {
                    usage(&"say DISK=NAME, a disk of this run and a bitmap in its image")
                })?;
            let disk = DiskName::new(disk).map_err(|error| usage(&error))?;
            if bitmaps.of(&disk).is_some() {
                return Err(usage(&format_args!("{disk} was given a bitmap before")));
            }
            bitmaps.0.push((disk, name.to_owned()));
        }
        Ok(bitmaps)
    }

    /// The bitmap of a disk.
    pub(super) fn of(&self, disk: &DiskName) -> Option<&str> {
        let mut named = self.0.iter();
        named
            .find(|(other, _)| other == disk)
            .map(|(_, name)| name.as_str())
    }

    /// Refuses a bitmap for a disk that is not among `disks`: it is a typing error, and would do nothing.
    ///
    /// # Errors
    /// Names the disk and those there are.
    pub(super) fn all_used(&self, disks: &[DiskName]) -> Result<()> {
        let Some((disk, name)) = self.0.iter().find(|(disk, _)| !disks.contains(disk)) else {
            return Ok(());
        };
        let said = format_args!("--bitmap {disk}={name}");
        Err(no_such_disk(said, disk, disks))
    }
}

/// Something was said of a disk that the run has not.
fn no_such_disk(said: impl Display, name: &DiskName, disks: &[DiskName]) -> Failure {
    let known: Vec<_> = disks.iter().map(DiskName::as_str).collect();
    let known = known.join(", ");
    let message = format!("{said}: no disk of this run is called {name}; there are {known}");
    Failure::say(Exit::Usage, message)
}

#[cfg(test)]
mod tests {
    use cohort_backup::catalogue::DiskName;
    use cohort_backup::{BitmapPolicy, ErrorPolicy};

    use crate::exit::Exit;

    use super::{MachineSource, NamedBitmaps, PerDisk, Source};

    fn disk(name: &str) -> DiskName {
        DiskName::new(name).expect("a name")
    }

    fn policies(texts: &[&str]) -> crate::failure::Result<PerDisk<BitmapPolicy>> {
        let texts: Vec<_> = texts.iter().map(|text| text.to_string()).collect();
        PerDisk::parse("--policy", &texts)
    }

    #[test]
    fn a_source_may_be_named() {
        assert_eq!(
            Source::parse("vda=/dev/x"),
            Source {
                name: Some(disk("vda")),
                path: "/dev/x".into()
            }
        );
        assert_eq!(
            Source::parse("/dev/x"),
            Source {
                name: None,
                path: "/dev/x".into()
            }
        );
        assert_eq!(
            Source::parse("/a/b=c"),
            Source {
                name: None,
                path: "/a/b=c".into()
            }
        );
        assert_eq!(
            Source::parse("vda="),
            Source {
                name: None,
                path: "vda=".into()
            }
        );
    }

    #[test]
    fn a_machine_is_named_with_some_of_its_disks() {
        let read = |text| MachineSource::parse(text).map_err(|failure| failure.exit);
        let all = MachineSource {
            monitor: "/run/m".into(),
            disks: vec![],
        };
        assert_eq!(read("qmp:/run/m"), Ok(Some(all)));
        let two = MachineSource {
            monitor: "m".into(),
            disks: vec![(None, "a".into()), (Some(disk("x")), "#block1".into())],
        };
        assert_eq!(read("qmp:m,a,x=#block1"), Ok(Some(two)));
        assert_eq!(read("/run/m"), Ok(None));
        assert_eq!(read("qmp:"), Err(Exit::Usage));
        assert_eq!(read("qmp:m,1 x=a"), Err(Exit::Usage));
    }

    #[test]
    fn a_policy_is_for_all_or_for_one() {
        let given = policies(&["always", "b=ask"]).expect("policies");
        assert_eq!(given.of(&disk("a")), Some(BitmapPolicy::Always));
        assert_eq!(given.of(&disk("b")), Some(BitmapPolicy::Ask));
        assert!(given.all_used(&[disk("a"), disk("b")]).is_ok());
        assert!(given.all_used(&[disk("a")]).is_err());
        let later = policies(&["ask", "b=ask", "always", "b=never"]).expect("policies");
        assert_eq!(later.of(&disk("a")), Some(BitmapPolicy::Always));
        assert_eq!(later.of(&disk("b")), Some(BitmapPolicy::Never));
        let none = PerDisk::<BitmapPolicy>::parse("--policy", &[]).expect("none");
        assert_eq!(none.of(&disk("a")), None);
    }

    #[test]
    fn a_value_may_hold_the_sign_that_ends_a_name() {
        let texts = ["ignore,attempts=3", "b=skip:2,attempts=9"].map(String::from);
        let given = PerDisk::<ErrorPolicy>::parse("--on-error", &texts).expect("policies");
        let of = |name| given.of(&disk(name)).map(|policy| policy.to_string());
        assert_eq!(of("a").as_deref(), Some("ignore,attempts=3"));
        assert_eq!(of("b").as_deref(), Some("skip:2,attempts=9"));
    }

    #[test]
    fn a_bitmap_is_named_for_one_disk() {
        let texts = ["a=x", "b=y=z"].map(String::from);
        let bitmaps = NamedBitmaps::parse(&texts).expect("bitmaps");
        assert_eq!(bitmaps.of(&disk("a")), Some("x"));
        assert_eq!(bitmaps.of(&disk("b")), Some("y=z"));
        assert_eq!(bitmaps.of(&disk("c")), None);
        assert!(bitmaps.all_used(&[disk("a"), disk("b")]).is_ok());
        assert!(bitmaps.all_used(&[disk("a")]).is_err());
        for bad in [&["x"][..], &["a="], &["=x"], &["a=x", "a=y"], &["1 a=x"]] {
            let texts: Vec<_> = bad.iter().map(|text| text.to_string()).collect();
            assert!(NamedBitmaps::parse(&texts).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for bad in [
            &["sometimes"][..],
            &["always", "1b=ask"],
            &["b="],
            &["=ask"],
        ] {
            assert!(policies(bad).is_err(), "{bad:?}");
        }
    }
}
