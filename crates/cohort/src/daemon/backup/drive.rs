//! `drive-backup`: a target that is made and opened for the job alone.

use std::sync::Arc;

use cohort_block::Device;
use cohort_qmp::{
    Backup, BackupCommon, CreateFile, DriveBackup, Driver, Error, FileOptions, NewImageMode,
    NodeOptions, NodeRef, Qcow2Options, RawOptions,
};

use crate::daemon::drivers::Builder;
use crate::daemon::nodes::{Node, Owner};
use crate::daemon::{Daemon, create, generic};

impl Daemon {
    /// Makes and opens the target of a `drive-backup`; it belongs to the job alone.
    pub(in crate::daemon) fn make_drive(
        &self,
        drive: DriveBackup,
    ) -> Result<(Backup, Arc<Node>), Error> {
        let mut graph = self.graph();
        let source = graph.either(&drive.common.device)?;
        let format = match &drive.format {
            Some(format) => format.clone(),
            None if source.driver == "qcow2" => "qcow2".to_owned(),
            None => "raw".to_owned(),
        };
        if !["raw", "qcow2"].contains(&format.as_str()) {
            return generic(format!("Unknown file format '{format}'"));
        }
        if drive.mode != Some(NewImageMode::Existing) {
            let path = self.restrict.check(&drive.common.target)?;
            let file = CreateFile {
                filename: path.display().to_string(),
                size: if format == "qcow2" {
                    0
                } else {
                    source.disk.size()
                },
                preallocation: None,
            };
            create::make_file(&path, &file)?;
        }
        let file = |options| NodeOptions {
            node_name: None,
            discard: None,
            cache: None,
            read_only: None,
            auto_read_only: None,
            force_share: None,
            detect_zeroes: None,
            driver: options,
        };
        let mut builder = Builder {
            graph: &mut graph,
            restrict: &self.restrict,
        };
        let protocol = file(Driver::File(FileOptions {
            filename: drive.common.target.clone(),
            locking: None,
            aio: None,
            drop_cache: None,
        }));
        let top = NodeRef::Options(Box::new(protocol.clone()));
        let options = match format.as_str() {
            "raw" => file(Driver::Raw(RawOptions {
                file: top,
                offset: None,
                size: None,
            })),
            "qcow2" => {
                if drive.mode != Some(NewImageMode::Existing) {
                    let node = builder.node(protocol, Owner::Parent)?;
                    create::make_qcow2(&node, source.disk.size(), None)?;
                }
                file(Driver::Qcow2(Qcow2Options {
                    file: top,
                    backing: None,
                    lazy_refcounts: None,
                    pass_discard_request: None,
                    pass_discard_snapshot: None,
                    pass_discard_other: None,
                }))
            }
            other => return generic(format!("Unknown driver '{other}'")),
        };
        let node = builder.node(options, Owner::Parent)?;
        let backup = Backup {
            common: BackupCommon {
                target: node.name.clone(),
                ..drive.common
            },
            x_cohort_ask: None,
            x_cohort_skip_limit: None,
            x_cohort_attempts: None,
            x_cohort_on_cbw_error: None,
            x_cohort_cbw_timeout: None,
        };
        Ok((backup, node))
    }
}
