//! Dirty bitmaps.

use super::{record, text_or, words};

record! {
    /// A bitmap of a node.
    BitmapRef { node: String, name: String }
}

record! {
    /// Arguments of `block-dirty-bitmap-add`.
    BitmapAdd {
        node: String,
        name: String,
        granularity: Option<u32>,
        persistent: Option<bool>,
        disabled: Option<bool>,
    }
}

text_or! {
    /// A bitmap: of the node at hand, or of another.
    BitmapSource "BlockDirtyBitmapOrStr" { Local, External(BitmapRef) }
}

record! {
    /// Arguments of `block-dirty-bitmap-merge`.
    BitmapMerge { node: String, target: String, bitmaps: Vec<BitmapSource> }
}

record! {
    /// What `x-debug-block-dirty-bitmap-sha256` returns.
    BitmapHash { sha256: String }
}

words! {
    /// What becomes of a bitmap that waits for a word.
    Answer { Keep = "keep", Discard = "discard" }
}

record! {
    /// Arguments of `x-cohort-bitmap-decide`.
    BitmapDecide { node: String, name: String, answer: Answer }
}
