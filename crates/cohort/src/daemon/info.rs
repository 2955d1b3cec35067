//! What queries say of nodes.

use std::sync::Arc;

use cohort_block::Device;
use cohort_qmp::{Argument, CacheInfo, NodeInfo, QueryStats};
use serde_json::{Value, json};

use super::nodes::Node;
use super::{Daemon, lock};

impl Daemon {
    pub(super) fn query_named_block_nodes(&self) -> Value {
        let graph = self.graph();
        graph
            .newest_first()
            .map(|node| describe(node).write())
            .collect()
    }

    /// Nothing is counted: nodes are listed, with zeroes, for clients that look for them.
    pub(super) fn query_blockstats(&self, query: &QueryStats) -> Value {
        if !query.query_nodes.unwrap_or(false) {
            return json!([]);
        }
        let graph = self.graph();
        let told = graph.newest_first().map(|node| {
            let stats = [
                "rd_bytes",
                "wr_bytes",
                "unmap_bytes",
                "rd_operations",
                "wr_operations",
                "flush_operations",
                "unmap_operations",
                "failed_rd_operations",
                "failed_wr_operations",
                "failed_flush_operations",
                "failed_unmap_operations",
                "rd_total_time_ns",
                "wr_total_time_ns",
                "flush_total_time_ns",
                "unmap_total_time_ns",
                "rd_merged",
                "wr_merged",
                "unmap_merged",
                "wr_highest_offset",
            ];
            let stats: serde_json::Map<_, _> = stats
                .into_iter()
                .map(|name| (name.to_owned(), Value::from(0)))
                .collect();
            json!({ "node-name": node.name, "stats": stats })
        });
        told.collect()
    }
}

fn describe(node: &Arc<Node>) -> NodeInfo {
    let bitmaps: Vec<_> = lock(&node.bitmaps)
        .iter()
        .rev()
        .map(|bitmap| bitmap.info())
        .collect();
    let backing = node.image.as_ref().and_then(|image| {
        let beneath = image.files().get(1)?;
        Some(beneath.path().display().to_string())
    });
    NodeInfo {
        node_name: Some(node.name.clone()),
        drv: node.driver.to_owned(),
        ro: node.traits.read_only,
        active: true,
        encrypted: false,
        file: node.filename.clone(),
        backing_file: backing,
        backing_file_depth: node.depth,
        detect_zeroes: node.traits.detect_zeroes,
        write_threshold: 0,
        bps: 0,
        bps_rd: 0,
        bps_wr: 0,
        iops: 0,
        iops_rd: 0,
        iops_wr: 0,
        cache: CacheInfo {
            writeback: true,
            direct: node.traits.direct,
            no_flush: node.traits.no_flush,
        },
        image: image(node),
        dirty_bitmaps: (!bitmaps.is_empty()).then_some(bitmaps),
    }
}

fn image(node: &Node) -> Value {
    let mut told = json!({
        "filename": node.filename,
        "format": node.driver,
        "virtual-size": node.disk.size(),
    });
    if let Some(cluster) = node.cluster {
        told["cluster-size"] = cluster.into();
    }
    if let Some(bytes) = allocated_bytes(node) {
        told["actual-size"] = bytes.into();
    }
    told
}

/// What the file at the bottom takes on its disk.
fn allocated_bytes(node: &Node) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    if node.driver == "null-co" {
        return Some(0);
    }
    let beneath = |node: &Node| node.beneath.as_ref().map(|top| top.file.clone());
    let child = node.children.first();
    let of_image = || Some(node.image.as_ref()?.files().first()?.clone());
    let file = beneath(node)
        .or_else(|| child.and_then(|child| beneath(child)))
        .or_else(of_image)?;
    let metadata = file.file().as_file().metadata().ok()?;
    Some(metadata.blocks() * 512)
}
