//! Exit codes: one per outcome, each with the sentence that documents it. The table is the documentation.

use std::process::ExitCode;

/// The table: an exit, its code, the word for it in JSON, and what it means.
macro_rules! exits {
    ($($name:ident = $code:literal $word:literal $means:literal;)*) => {
        /// How a command ended, as the caller's shell sees it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Exit { $(#[doc = $means] $name),* }

        impl Exit {
            /// Every exit, in the order of the codes.
            pub(crate) const ALL: &'static [Exit] = &[$(Exit::$name),*];

            /// The code, the word for it in JSON, and what it means.
            const fn row(self) -> (u8, &'static str, &'static str) {
                match self { $(Exit::$name => ($code, $word, $means)),* }
            }
        }
    };
}

exits! {
    Done              =  0 "done"                 "everything that was asked for was done";
    Other             =  1 "failed"               "something failed that has no code of its own";
    Usage             =  2 "usage"                "the command line is wrong";
    DiskFailed        =  3 "disk-failed"          "a disk failed while it was copied";
    Incomplete        =  4 "incomplete"           "more could not be read than was allowed to be skipped";
    Cancelled         =  5 "cancelled"            "stopped by a user; each disk settled by its policy";
    Discarded         =  6 "discarded"            "stopped by a user; no trace was left";
    Changed           =  7 "changed"              "a source changed while it was read";
    Undecided         =  8 "undecided"            "a disk waits for an answer: keep or discard";
    SteppedDown       =  9 "stepped-down"         "--strict, and a disk would have to copy more than what changed";
    InDoubt           = 10 "in-doubt"             "the verdict could not be written; the next run finds out what it was";
    SourceMissing     = 20 "source-missing"       "a source does not exist";
    SourceUnreadable  = 21 "source-unreadable"    "a source cannot be opened";
    SourceEmpty       = 22 "source-empty"         "a source has no bytes";
    SourceLocked      = 23 "source-locked"        "another program holds a source for writing";
    SourceTwice       = 24 "source-twice"         "the same disk, or the same name, was given twice";
    SourceIsTarget    = 25 "source-is-target"     "a source lies in the backup directory or is the file to write";
    SourceDamaged     = 26 "source-damaged"       "a source is not a sound image";
    SourceUnsupported = 27 "source-unsupported"   "a source needs a feature that is not supported";
    BackingMissing    = 28 "backing-missing"      "a backing file of a source does not exist";
    TargetFull        = 40 "target-full"          "there is no room left for the target, or in the backup directory";
    TargetFailed      = 41 "target-failed"        "the target cannot be written";
    OutputExists      = 42 "output-exists"        "the output file, or the bitmap to be made, exists already";
    DirectoryUnusable = 43 "directory-unusable"   "the backup directory does not exist or cannot be used";
    DirectoryBusy     = 44 "directory-busy"       "another run writes into the backup directory";
    CatalogueDamaged  = 45 "catalogue-damaged"    "the catalogue is damaged";
    CatalogueForeign  = 46 "catalogue-foreign"    "the catalogue is not ours, or of an unknown version";
    NoSuchPoint       = 47 "no-such-point"        "there is no such disk or point";
    PointDamaged      = 48 "point-damaged"        "a point's image, or one that it lies on, is missing or cannot be read";
    Damaged           = 49 "damaged"              "verifying found files that are not what was backed up";
    ClaimWrong        = 50 "claim-wrong"          "an audit found changes where none were claimed; the next run compares everything";
    NoSuchBitmap      = 51 "no-such-bitmap"       "there is no such bitmap";
    BitmapUntrue      = 52 "bitmap-untrue"        "a bitmap does not say the truth: in use, inconsistent, stale or of an unknown kind";
    BadRanges         = 53 "bad-ranges"           "what was to be imported are no ranges of this disk";
    NoServer          = 54 "no-server"            "nobody answers at the socket as a server of jobs does";
    NoSuchJob         = 55 "no-such-job"          "there is no such job";
    VerbRefused       = 56 "verb-refused"         "a job does not accept this verb where it is in its life";
    JobFailed         = 57 "job-failed"           "a job that was watched failed";
    CheckFailed       = 60 "check-failed"         "a check of the demonstration failed";
}

impl Exit {
    /// The number the process exits with.
    pub(crate) const fn code(self) -> u8 {
        self.row().0
    }

    /// The stable word for this exit, as JSON gives it.
    pub(crate) const fn word(self) -> &'static str {
        self.row().1
    }

    /// The exit of that word.
    pub(crate) fn of_word(word: &str) -> Option<Exit> {
        Exit::ALL.iter().copied().find(|exit| exit.word() == word)
    }

    /// What it means, in a sentence without capital and stop.
    pub(crate) const fn meaning(self) -> &'static str {
        self.row().2
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn every_exit_has_a_code_and_a_word_of_its_own() {
        let rows: Vec<_> = Exit::ALL
            .iter()
            .map(|exit| (exit.code(), exit.word()))
            .collect();
        assert!(
            rows.is_sorted_by(|a, b| a.0 < b.0),
            "in the order of the codes, none twice: {rows:?}"
        );
        let words: std::collections::BTreeSet<_> = rows.iter().map(|row| row.1).collect();
        assert_eq!(words.len(), rows.len());
    }
}
