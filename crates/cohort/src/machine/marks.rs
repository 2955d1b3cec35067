//! What we call things inside a machine, so that whoever comes later knows them for ours, and of which run they are.
//!
//! `cohort-DIRECTORY-RUN` is a bitmap that records since the instant of that run: a checkpoint. With one more part behind
//! it stands what lives for one run only. A node's name may have 31 bytes.

use cohort_backup::catalogue::{DirectoryId, RunId};

/// What begins the names of all directories.
pub(super) const PREFIX: &str = "cohort-";

/// The names of one backup directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    prefix: String,
}

/// What a name of ours says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The run that gave the name.
    pub(super) run: RunId,
    /// Whether what is called so is kept when the run has ended.
    pub(super) is_checkpoint: bool,
}

impl Marks {
    pub(super) fn of(directory: DirectoryId) -> Self {
        let digits = directory.to_string();
        let prefix = format!("{PREFIX}{}-", &digits[..8]);
        Marks { prefix }
    }

    /// The bitmap that records since the instant of a run.
    pub(super) fn checkpoint(&self, run: RunId) -> String {
        format!("{}{run}", self.prefix)
    }

    /// Something of one run: `part` is short, and has no dash.
    pub(super) fn passing(&self, run: RunId, part: &str) -> String {
        format!("{}{run}-{part}", self.prefix)
    }

    /// What begins all names of this directory.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What a name says, if it is one of ours.
    pub(super) fn read(&self, name: &str) -> Option<Mark> {
        let rest = name.strip_prefix(&self.prefix)?;
        let (run, part) = match rest.split_once('-') {
            Some((run, part)) => (run, Some(part)),
            None => (rest, None),
        };
        let number: u64 = run.parse().ok()?;
        // Another spelling of the number is another name.
        (number.to_string() == run).then_some(Mark {
            run: RunId(number),
            is_checkpoint: part.is_none(),
        })
    }
}

/// Of a checkpoint of whatever directory: the begin of that one's id, and the run.
pub(super) fn checkpoint_of_any(name: &str) -> Option<(String, u64)> {
    let (digits, run) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let is_id = digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    Some((digits.to_owned(), run.parse().ok()?)).filter(|_| is_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_were_given_and_fit() {
        let marks = Marks::of(DirectoryId::random());
        let run = RunId(123_456_789);
        let checkpoint = marks.checkpoint(run);
        let read = marks.read(&checkpoint);
        assert_eq!(
            read,
            Some(Mark {
                run,
                is_checkpoint: true
            })
        );
        let passing = marks.passing(run, "s99");
        assert!(passing.len() <= 31, "{passing}");
        let read = marks.read(&passing);
        assert_eq!(
            read,
            Some(Mark {
                run,
                is_checkpoint: false
            })
        );
        for foreign in [
            "",
            "cohort",
            "cohort-x",
            &checkpoint[1..],
            &format!("{checkpoint}x"),
        ] {
            assert_eq!(marks.read(foreign), None, "{foreign}");
        }
        assert_eq!(Marks::of(DirectoryId::random()).read(&checkpoint), None);
        let (digits, number) = checkpoint_of_any(&checkpoint).unwrap();
        assert_eq!(number, run.0);
        assert!(checkpoint.contains(&digits));
        for none in ["cohort-0123-4", "cohort-01234567-t", &passing] {
            assert_eq!(checkpoint_of_any(none), None, "{none}");
        }
    }
}
