//! `blockdev-add`, `-del`, `-reopen`, `block_resize`.

use std::sync::Arc;

use cohort_block::Device;
use cohort_qmp::{Error, NodeOptions, Reopen, Resize};

use super::drivers::Builder;
use super::nodes::{Node, Owner, UseKind};
use super::{Answer, Daemon, complain, generic, nothing, stored};

impl Daemon {
    pub(super) fn blockdev_add(&self, options: NodeOptions) -> Answer {
        if options.node_name.is_none() {
            return generic("'node-name' must be specified for the root node");
        }
        let mut graph = self.graph();
        let mut builder = Builder {
            graph: &mut graph,
            restrict: &self.restrict,
        };
        let node = builder.node(options, Owner::Client)?;
        graph.add(&node)?;
        nothing()
    }

    pub(super) fn blockdev_del(&self, name: &str) -> Answer {
        let mut graph = self.graph();
        let Some(node) = graph.find(name).cloned() else {
            return generic(format!("Failed to find node with node-name='{name}'"));
        };
        if node.is_used_as(UseKind::Export) {
            return generic(format!("Node {name} is in use"));
        }
        node.refuse_if_target()?;
        if node.owner != Owner::Client {
            return generic(format!("Node {name} is not owned by the monitor"));
        }
        if graph.has_parent(&node) || node.is_used_as(UseKind::Source) {
            return generic(format!("Block device {name} is in use"));
        }
        if let Err(error) = node.disk.flush() {
            complain(&format!(
                "node {name}: what was written may be lost: {error}"
            ));
        }
        let gone = graph.remove(&node);
        drop(node);
        let names: Vec<_> = gone.iter().map(|node| node.name.clone()).collect();
        let closing = gone.iter().filter_map(|node| node.closing()).collect();
        drop(gone);
        drop(graph);
        stored::wait_for(closing);
        self.state.forget_bitmaps(&names)?;
        nothing()
    }

    /// Reopens nodes: only what changes nothing is possible, as no driver here can be reopened.
    pub(super) fn blockdev_reopen(&self, reopen: Reopen) -> Answer {
        let graph = self.graph();
        for options in reopen.options {
            let Some(name) = options.node_name.as_deref() else {
                return generic("node-name not specified");
            };
            let Some(node) = graph.find(name) else {
                return generic(format!("Failed to find node with node-name='{name}'"));
            };
            let same = options.driver.word() == node.driver
                && options.read_only.unwrap_or(false) == node.traits.read_only;
            if !same {
                return generic(format!(
                    "node '{name}' cannot be reopened otherwise than it is: delete it and add it anew"
                ));
            }
        }
        nothing()
    }

    pub(super) fn block_resize(&self, resize: &Resize) -> Answer {
        let graph = self.graph();
        let device = resize.device.as_deref().unwrap_or_default();
        let node = resize.node_name.as_deref().unwrap_or_default();
        let node = graph.device_or_node(device, node)?;
        let Ok(size) = u64::try_from(resize.size) else {
            return generic("Parameter 'size' expects a >0 size");
        };
        node.refuse_if_target()?;
        refuse_resize_in_use(&node, graph.has_parent(&node))?;
        if size == node.disk.size() && node.driver != "null-co" {
            return nothing();
        }
        generic("Image format driver does not support resize")
    }
}

/// Whoever uses a node counts on its size.
fn refuse_resize_in_use(node: &Arc<Node>, has_parent: bool) -> Result<(), Error> {
    let user = if node.is_used_as(UseKind::Export) {
        "an unnamed block device"
    } else if node.is_used_as(UseKind::Source) {
        "a block job"
    } else if has_parent {
        "the node above"
    } else {
        return Ok(());
    };
    let name = &node.name;
    Err(Error::generic(format!(
        "Permission conflict on node '{name}': permissions 'resize' are both required by an unnamed block device \
         (uses node '{name}' as 'root' child) and unshared by {user}."
    )))
}
