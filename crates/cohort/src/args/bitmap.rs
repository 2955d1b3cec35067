//! `cohort bitmap …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Output;

/// `cohort bitmap …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Bitmap {
    /// Keep or discard what an unfinished run copied of a disk.
    Decide(Decide),
    /// List the bitmaps of a disk: QEMU's in its qcow2 image, and the sets of the tracking store beside it.
    ///
    /// Works beside whoever writes to the disk, and after one that was killed. Nothing is changed.
    List(BitmapList),
    /// Draw which parts of a disk a bitmap holds for changed.
    Show(BitmapShow),
    /// Print a bitmap's dirty ranges, a line "offset length" each, in bytes.
    Export(BitmapExport),
    /// Make a bitmap in a qcow2 image of dirty ranges: lines "offset length", or the JSON of `nbdinfo --map`.
    ///
    /// Granules of which any byte is given become dirty. Nobody else may have the image open.
    Import(BitmapImport),
    /// Add bitmaps to one in a qcow2 image, as `qemu-img bitmap --merge` does.
    ///
    /// They may be of other granularities, and also sets of a tracking store. Nobody else may have the image open.
    Merge(BitmapMerge),
}

/// One bitmap of a disk.
#[derive(Debug, Args)]
pub(crate) struct OneBitmap {
    /// A disk: a qcow2 image with bitmaps, a disk with a tracking store beside it, or such a store itself.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// The bitmap: its name, or #N for set N of the tracking store. May be left out if there is only one.
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// `cohort bitmap list`.
#[derive(Debug, Args)]
pub(crate) struct BitmapList {
    /// A disk: a qcow2 image with bitmaps, a disk with a tracking store beside it, or such a store itself. Or
    /// qmp:SOCKET, a running machine with the checkpoints of its backups.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort bitmap show`.
#[derive(Debug, Args)]
pub(crate) struct BitmapShow {
    /// Which one.
    #[command(flatten)]
    pub(crate) bitmap: OneBitmap,
    /// List the dirty ranges exactly instead of drawing them.
    #[arg(long, conflicts_with = "out")]
    pub(crate) rows: bool,
    /// Draw into this SVG file instead of the terminal; it must not exist.
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) out: Option<PathBuf>,
    /// Replace FILE.svg if it exists.
    #[arg(long, requires = "out")]
    pub(crate) force: bool,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort bitmap export`.
#[derive(Debug, Args)]
pub(crate) struct BitmapExport {
    /// Which one.
    #[command(flatten)]
    pub(crate) bitmap: OneBitmap,
    /// Write to this file instead of standard output; it must not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Replace FILE if it exists.
    #[arg(long, requires = "out")]
    pub(crate) force: bool,
    /// Write the whole disk, clean ranges too, as the JSON of `nbdinfo --map --json`.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `cohort bitmap import`.
#[derive(Debug, Args)]
pub(crate) struct BitmapImport {
    /// The qcow2 image.
    #[arg(value_name = "IMAGE")]
    pub(crate) image: PathBuf,
    /// What the bitmap is called.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The ranges; without it, or with `-`, they are read from standard input.
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Bytes per bit, a power of two from 512 to 2G; by default that of the bitmap which is replaced, or else 64K.
    #[arg(long, value_name = "BYTES", value_parser = crate::human::parse_bytes)]
    pub(crate) granularity: Option<u64>,
    /// Replace what the bitmap says if there is one of that name.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Add the bitmap disabled: whoever writes to the image does not mark it.
    #[arg(long, conflicts_with = "replace")]
    pub(crate) disabled: bool,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort bitmap merge`.
#[derive(Debug, Args)]
pub(crate) struct BitmapMerge {
    /// The qcow2 image.
    #[arg(value_name = "IMAGE")]
    pub(crate) image: PathBuf,
    /// The bitmap in it that the others are added to.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The bitmaps to add: names, or #N for set N of a tracking store.
    #[arg(required = true, value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Take the sources from this disk or tracking store; by default from IMAGE.
    #[arg(long, value_name = "PATH")]
    pub(crate) from: Option<PathBuf>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort bitmap decide`.
#[derive(Debug, Args)]
pub(crate) struct Decide {
    /// keep: the next run continues the partial copy; discard: it starts again from the last point.
    #[arg(value_enum)]
    pub(crate) answer: Answer,
    /// The backup directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// The disk.
    #[arg(value_name = "DISK")]
    pub(crate) disk: String,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// The answer to an undecided bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Answer {
    /// Continue the partial copy.
    Keep,
    /// Drop it.
    Discard,
}
