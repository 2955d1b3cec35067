//! The words of a backup's options: what is copied, and what becomes of bitmaps and partials.

use std::fmt;
use std::str::FromStr;

/// What a backup copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SyncMode {
    /// Everything that is not a hole or zero, into a target that stands alone.
    Full,
    /// All that the source's top layer allocates, and whatever else differs from the last point.
    Top,
    /// What changed since the anchor; the policy must be on-success.
    Incremental,
    /// What changed since the anchor, with any policy. Without an earlier point this is a full backup.
    #[default]
    Bitmap,
    /// Nothing but what writers overwrite, as it was at the fence, until the job is ended. Only served disks, and never a
    /// point: what policies keep of it is a partial like any other.
    None,
}

/// The fate of a disk's bitmap and of its partial target when the backup ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum BitmapPolicy {
    /// Only a backup that succeeds moves the anchor; a failed one leaves nothing but its error.
    #[default]
    OnSuccess,
    /// What was copied counts even if the backup fails: the partial is kept and the next run completes it.
    Always,
    /// As `Always`, but the next run may use the partial only after someone said keep.
    Ask,
    /// The anchor never moves: a differential backup.
    Never,
}

/// What to do on the next run with a partial that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnUndecided {
    /// Refuse that disk, before anything is done to it, and name both answers.
    #[default]
    Refuse,
    /// Complete the partial.
    Keep,
    /// Drop the partial and start from the last point.
    Discard,
}

/// How the clusters of a target are compressed. What the format knows besides, zstd, is not read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// They are stored as they are.
    #[default]
    None,
    /// Each by itself, as every reader of the format reads it; those that this does not make smaller as they are.
    Zlib,
}

macro_rules! words {
    ($kind:ty, $what:literal, $($variant:path => $word:literal),+) => {
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($variant => $word),+ })
            }
        }
        impl FromStr for $kind {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok($variant),)+
                    _ => Err(UnknownWord { what: $what, word: word.to_owned(), known: &[$($word),+] }),
                }
            }
        }
    };
}

words!(SyncMode, "sync mode", SyncMode::Full => "full", SyncMode::Top => "top",
    SyncMode::Incremental => "incremental", SyncMode::Bitmap => "bitmap", SyncMode::None => "none");
words!(BitmapPolicy, "bitmap policy", BitmapPolicy::OnSuccess => "on-success", BitmapPolicy::Always => "always",
    BitmapPolicy::Ask => "ask", BitmapPolicy::Never => "never");
words!(Compression, "compression", Compression::None => "none", Compression::Zlib => "zlib");
words!(OnUndecided, "answer for an undecided partial", OnUndecided::Refuse => "refuse", OnUndecided::Keep => "keep",
    OnUndecided::Discard => "discard");

/// A word that names no value of its option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{word}' is not a {what}: use one of {}", known.join(", "))]
pub struct UnknownWord {
    what: &'static str,
    word: String,
    known: &'static [&'static str],
}
