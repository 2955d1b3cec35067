//! Who may use a node beside whom: the law that keeps two from writing past each other, in the words of QEMU's permissions.
//!
//! A node is *written to* by exports that let clients write, by the job whose target it is, and by what lies on it: an
//! image, or a node that passes on what is written to it. It is *guarded* by an image on it, whose metadata nobody else
//! may touch, and by a job that reads a node on it, because what is written here does not pass the gate of that one.
//! Nobody writes to a node that somebody else guards.
//!
//! An image writes to its file itself and not through the gate of the node beneath. So that node has no bitmaps, and is no
//! source of a backup, while the image may be written to.

use std::iter::successors;
use std::sync::Arc;

use cohort_qmp::Error;

use super::nodes::{Node, UseKind};
use super::{generic, lock};

/// Refuses an image on this node.
pub(super) fn refuse_image(name: &str, beneath: &Arc<Node>, read_only: bool) -> Result<(), Error> {
    let image = used_by(name, beneath);
    refuse_guard(passed_on(beneath, &image))?;
    if read_only {
        return Ok(());
    }
    refuse_writer(beneath, &image, "write, resize")?;
    for node in downward(beneath).take_while(|node| !is_image(node)) {
        let name = &node.name;
        if node.is_used_as(UseKind::Source) {
            return generic(format!(
                "a backup reads node '{name}', and an image on it would write past that: let it end first"
            ));
        }
        if !lock(&node.bitmaps).is_empty() {
            return generic(format!(
                "node '{name}' has bitmaps, and an image on it would write past them: remove them first"
            ));
        }
    }
    Ok(())
}

/// Refuses an export of this node through which clients may write.
pub(super) fn refuse_guest(node: &Arc<Node>) -> Result<(), Error> {
    refuse_writer(node, &root(node), "write")
}

/// Refuses a backup from one node to the other.
pub(super) fn refuse_backup(source: &Arc<Node>, target: &Arc<Node>) -> Result<(), Error> {
    refuse_past(source, "backed up")?;
    for (above, below) in [(source, target), (target, source)] {
        if downward(above).any(|node| Arc::ptr_eq(&node, below)) {
            return conflict(below, "write", &job(target, "target"), &job(source, "file"));
        }
    }
    refuse_writer(target, &job(target, "target"), "write")?;
    // To the source itself anybody may write: that passes its gate.
    refuse_guard(passed_on(source, "").skip(1))
}

/// Refuses a bitmap of a node, which is told of no write that an image on it makes.
pub(super) fn refuse_bitmap(node: &Arc<Node>) -> Result<(), Error> {
    refuse_past(node, "tracked")
}

/// Refuses to make an image in a node that somebody uses.
pub(super) fn refuse_making(node: &Arc<Node>) -> Result<(), Error> {
    let maker = root(node);
    if is_used(node) {
        return conflict(node, "resize", &maker, &root(node));
    }
    match node
        .above()
        .into_iter()
        .find(|above| is_image(above) || is_used_anyhow(above))
    {
        Some(above) => conflict(node, "write, resize", &maker, &used_by(&above.name, node)),
        None => Ok(()),
    }
}

/// Refuses what counts on every write passing this node's gate.
fn refuse_past(node: &Arc<Node>, what: &str) -> Result<(), Error> {
    let Some(image) = image_above(node) else {
        return Ok(());
    };
    let (name, image) = (&node.name, &image.name);
    generic(format!(
        "node '{name}' cannot be {what}, as image '{image}' on it writes past it: name '{image}' instead"
    ))
}

/// Refuses somebody who writes to a node.
fn refuse_writer(node: &Arc<Node>, writer: &str, permissions: &str) -> Result<(), Error> {
    for Place {
        node,
        besides,
        user,
    } in passed_on(node, writer)
    {
        if let Some(guard) = guard(&node, besides.as_ref()) {
            return conflict(&node, permissions, &user, &guard);
        }
    }
    Ok(())
}

/// Refuses somebody who guards these against all others.
fn refuse_guard(places: impl Iterator<Item = Place>) -> Result<(), Error> {
    for Place {
        node,
        besides,
        user,
    } in places
    {
        if let Some((writer, permissions)) = writer(&node, besides.as_ref()) {
            return conflict(&node, permissions, &writer, &user);
        }
    }
    Ok(())
}

/// A node that somebody uses, by way of the one above that is none of the others.
struct Place {
    node: Arc<Node>,
    besides: Option<Arc<Node>>,
    user: String,
}

/// A node that `user` uses, and those beneath to which it passes that on.
fn passed_on(node: &Arc<Node>, user: &str) -> impl Iterator<Item = Place> {
    let first = Place {
        node: node.clone(),
        besides: None,
        user: user.to_owned(),
    };
    successors(Some(first), |Place { node, .. }| {
        let beneath = node.children.first().filter(|_| !is_image(node))?;
        Some(Place {
            node: beneath.clone(),
            besides: Some(node.clone()),
            user: used_by(&node.name, beneath),
        })
    })
}

/// Who guards a node, other than `besides`.
fn guard(node: &Arc<Node>, besides: Option<&Arc<Node>>) -> Option<String> {
    let mut others = others_above(node, besides).into_iter();
    let guards = |above: &Arc<Node>| {
        is_image(above) || above.is_used_as(UseKind::Source) || guard(above, None).is_some()
    };
    others.find(guards).map(|above| used_by(&above.name, node))
}

/// Who writes to a node, other than `besides`, and what that needs.
fn writer(node: &Arc<Node>, besides: Option<&Arc<Node>>) -> Option<(String, &'static str)> {
    if node.is_used_as(UseKind::Guest) {
        return Some((root(node), "write"));
    }
    if node.is_used_as(UseKind::Target) {
        return Some((job(node, "target"), "write"));
    }
    others_above(node, besides).iter().find_map(|above| {
        let permissions = match is_image(above) {
            true => (!above.traits.read_only).then_some("write, resize"),
            false => writer(above, None).map(|(_, permissions)| permissions),
        };
        Some((used_by(&above.name, node), permissions?))
    })
}

/// The image that writes past this node's gate, if there is one.
fn image_above(node: &Arc<Node>) -> Option<Arc<Node>> {
    node.above()
        .into_iter()
        .find_map(|above| match is_image(&above) {
            true => (!above.traits.read_only).then_some(above),
            false => image_above(&above),
        })
}

fn is_used(node: &Node) -> bool {
    [UseKind::Export, UseKind::Source, UseKind::Target]
        .into_iter()
        .any(|kind| node.is_used_as(kind))
}

/// The same, or by something that lies on it.
fn is_used_anyhow(node: &Node) -> bool {
    let uses = |above: &Arc<Node>| is_image(above) || is_used_anyhow(above);
    is_used(node) || node.above().iter().any(uses)
}

fn others_above(node: &Node, besides: Option<&Arc<Node>>) -> Vec<Arc<Node>> {
    let mut above = node.above();
    above.retain(|one| besides.is_none_or(|besides| !Arc::ptr_eq(one, besides)));
    above
}

/// A node and all that it lies on, without what an image falls back to.
fn downward(node: &Arc<Node>) -> impl Iterator<Item = Arc<Node>> {
    successors(Some(node.clone()), |node| node.children.first().cloned())
}

fn is_image(node: &Node) -> bool {
    node.driver == "qcow2"
}

fn used_by(above: &str, node: &Node) -> String {
    format!("node '{above}' (uses node '{}' as 'file' child)", node.name)
}

fn root(node: &Node) -> String {
    let name = &node.name;
    format!("an unnamed block device (uses node '{name}' as 'root' child)")
}

fn job(node: &Node, part: &str) -> String {
    let name = &node.name;
    format!("a block job (uses node '{name}' as '{part}' child)")
}

fn conflict(node: &Node, permissions: &str, writer: &str, guard: &str) -> Result<(), Error> {
    let name = &node.name;
    generic(format!(
        "Permission conflict on node '{name}': permissions '{permissions}' are both required by {writer} and unshared by {guard}."
    ))
}
