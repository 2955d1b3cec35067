//! Points whose images are being merged with those of points that were pruned (section 3, "Merging").

use std::collections::BTreeSet;
use std::path::Path;

use super::catalogue::{Catalogue, ImageRow};
use super::image::Layer;

/// The images of a point, from the top down.
pub(super) struct Chain<'a> {
    pub(super) links: Vec<Link<'a>>,
}

/// An image of a chain.
pub(super) struct Link<'a> {
    pub(super) row: &'a ImageRow,
    state: State<'a>,
}

/// How far the merge is that an image takes part in.
#[derive(Clone, Copy)]
enum State<'a> {
    /// It takes part in none.
    Still,
    /// The lowest of those to be merged: what these, above it, hold may have been appended.
    Lowest(&'a ImageRow),
    /// All were merged into it, and its row does not say so yet.
    Merged,
}

impl<'a> Link<'a> {
    pub(super) fn is_merged(&self) -> bool {
        matches!(self.state, State::Merged)
    }

    /// The images whose clusters may have been appended to it.
    pub(super) fn appended_from(&self) -> Vec<&'a ImageRow> {
        let State::Lowest(point) = self.state else {
            return Vec::new();
        };
        let (_, between) = point.merging.split_last().unwrap_or((point, &[]));
        std::iter::once(point).chain(between).collect()
    }
}

impl<'a> Chain<'a> {
    /// The images that a row's own lies on, by the rows, and by what its image lies on where a merge decides.
    pub(super) fn of(
        directory: &Path,
        catalogue: &'a Catalogue,
        row: &'a ImageRow,
    ) -> Result<Self, String> {
        let mut links = Vec::new();
        let mut next = Some(row);
        while let Some(row) = next {
            let below = row.parent.map(|parent| {
                let below = catalogue.points.get(&(row.disk.clone(), parent));
                below.ok_or("its parent is no point")
            });
            next = below.transpose()?;
            let merged = is_merged(directory, row, next)?;
            let state = if merged { State::Merged } else { State::Still };
            links.push(Link { row, state });
            if merged {
                continue;
            }
            for (at, layer) in row.merging.iter().enumerate() {
                let is_lowest = at + 1 == row.merging.len();
                let state = if is_lowest {
                    State::Lowest(row)
                } else {
                    State::Still
                };
                links.push(Link { row: layer, state });
            }
        }
        Ok(Self { links })
    }
}

/// Whether a point's image is already the merged one: then it lies on the image of its parent, or on nothing.
fn is_merged(directory: &Path, row: &ImageRow, parent: Option<&ImageRow>) -> Result<bool, String> {
    if row.merging.is_empty() {
        return Ok(false);
    }
    let lies_on = Layer::backing_of(&directory.join(&row.file));
    let lies_on = lies_on.map_err(|why| format!("{}: {why}", row.file))?;
    Ok(lies_on.as_deref() == parent.map(|parent| &*parent.file))
}

/// The files that are named still, and that a merge renamed.
pub(super) fn renamed(directory: &Path, catalogue: &Catalogue) -> Result<BTreeSet<String>, String> {
    let mut renamed = BTreeSet::new();
    for row in catalogue.points.values() {
        let parent = row.parent.map(|parent| (row.disk.clone(), parent));
        let parent = parent.and_then(|parent| catalogue.points.get(&parent));
        if let Some(last) = row.merging.last()
            && is_merged(directory, row, parent)?
        {
            renamed.insert(last.file.clone());
        }
    }
    Ok(renamed)
}
