//! What lies beneath a qcow2 image: one file after the other, down to where nothing does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{Holding, ImageFile, open_file};
use super::{Access, Beneath, Format, OpenOptions, judge_format};
use crate::file::File;
use crate::header::{self, Backing, Header};
use crate::open_error::OpenError;
use crate::qcow2::{Layer, LayerKind};
use crate::stamp::FileId;

/// Walks down from the top layer of a qcow2 image to where nothing lies beneath.
pub(super) fn open_chain(
    top: ImageFile,
    wrapped: Arc<dyn File>,
    options: OpenOptions,
    lies: &Beneath,
    wrap: &impl Fn(Arc<dyn File>) -> Arc<dyn File>,
) -> Result<(Vec<Layer>, Vec<ImageFile>), OpenError> {
    let beneath = OpenOptions {
        access: Access::ReadOnly,
        ..options
    };
    let (mut layers, mut files) = (Vec::new(), vec![top]);
    let (mut file, mut format, mut access) = (wrapped, Format::Qcow2, options.access);
    loop {
        let path = &files[files.len() - 1].path;
        let name = path.display().to_string();
        if format == Format::Raw {
            layers.push(Layer {
                name,
                file,
                kind: LayerKind::Raw,
            });
            return Ok((layers, files));
        }
        let header = header::read(path, &*file, access)?;
        let Header {
            version,
            cluster_bits,
            promises_bitmaps,
            backing,
        } = header;
        layers.push(Layer {
            name,
            file,
            kind: LayerKind::Qcow2 {
                version,
                cluster_bits,
                promises_bitmaps,
            },
        });
        let backing = match (lies, backing) {
            (Beneath::AsNamed, Some(backing)) => backing,
            (Beneath::AsNamed, None) | (Beneath::Nothing, _) => return Ok((layers, files)),
            (Beneath::Device(device), _) => {
                layers.push(Layer::of_device(device.clone()));
                return Ok((layers, files));
            }
        };
        let told = backing_format(path, &backing)?;
        let mut next = open_backing(path, &backing, &files, beneath)?;
        file = wrap(next.file.clone());
        format = judge_format(&next.path, &*file, told)?;
        access = Access::ReadOnly;
        next.format = format;
        files.push(next);
    }
}

fn open_backing(
    image: &Path,
    backing: &Backing,
    chain: &[ImageFile],
    options: OpenOptions,
) -> Result<ImageFile, OpenError> {
    let path = backing_path(image, &backing.name)?;
    let id = FileId::of_path(&path).map_err(|cause| {
        let error = OpenError::of_opening(&path, options.access, cause);
        if matches!(error, OpenError::Missing { .. }) {
            OpenError::MissingBacking {
                image: image.into(),
                backing: path.clone(),
            }
        } else {
            error
        }
    })?;
    // Before it is opened: our own lock on the top layer would be in the way.
    if chain.iter().any(|file| file.id == id) {
        return Err(OpenError::BackingLoop {
            image: image.into(),
            backing: path,
        });
    }
    open_file(&path, options, Holding::Shared)
}

/// Where a backing file is: relative names start at the image that holds them.
fn backing_path(image: &Path, name: &str) -> Result<PathBuf, OpenError> {
    let unsupported = |feature| {
        Err(OpenError::Unsupported {
            path: image.into(),
            feature,
        })
    };
    let name = name.strip_prefix("file:").unwrap_or(name);
    let first = name.split('/').next().unwrap_or(name);
    if let Some((protocol, _)) = first.split_once(':') {
        let protocol = protocol.escape_debug();
        return unsupported(format!(
            "a backing file that is no plain path (\"{protocol}:\")"
        ));
    }
    Ok(image.parent().unwrap_or(Path::new("")).join(name))
}

fn backing_format(image: &Path, backing: &Backing) -> Result<Option<Format>, OpenError> {
    match backing.format.as_deref() {
        None => Ok(None),
        Some("raw" | "file" | "host_device") => Ok(Some(Format::Raw)),
        Some("qcow2") => Ok(Some(Format::Qcow2)),
        Some(other) => Err(OpenError::Unsupported {
            path: image.into(),
            feature: format!("a backing file of format \"{}\"", other.escape_debug()),
        }),
    }
}
