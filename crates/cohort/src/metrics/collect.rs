//! What a server has counted, as a page of metrics.

use std::time::{SystemTime, UNIX_EPOCH};

use cohort_job::Status;
use cohort_qmp::{DiskStatistics, ExportStatistics, JobInfo, Statistics};

use super::family::Family as F;
use super::page::Page;

/// What is told besides what was counted.
pub(super) struct Process {
    pub(super) began: SystemTime,
    pub(super) open_files: Option<u64>,
}

/// Operations that move or change bytes.
const WITH_BYTES: [&str; 4] = ["read", "write", "trim", "write_zeroes"];

pub(super) fn page(told: &Statistics, jobs: &[JobInfo], process: &Process) -> String {
    let mut page = Page::new();
    page.put(F::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1);
    told.exports.iter().for_each(|e| export(e, &mut page));
    told.disks.iter().for_each(|d| disk(d, &mut page));
    for status in Status::ALL {
        let status = status.as_str();
        let count = jobs.iter().filter(|job| job.status == status).count();
        page.put(F::Jobs, &[status], count as u64);
    }
    // What is not a backup has a unit of its own.
    for job in jobs.iter().filter(|job| job.r#type == "backup") {
        page.put(F::JobDone, &[&job.id], job.current_progress);
        page.put(F::JobSize, &[&job.id], job.total_progress);
    }
    page.put(F::GroupsDecided, &["commit"], told.decided.committed);
    page.put(F::GroupsDecided, &["abort"], told.decided.aborted);
    page.put(F::Fences, &[], told.fences.fences);
    page.put_seconds(F::FenceLast, &[], told.fences.last_ns);
    page.put_seconds(F::FenceWorst, &[], told.fences.worst_ns);
    page.put(F::NbdClients, &[], told.clients.nbd);
    page.put(F::NbdClientsLimit, &[], told.clients.nbd_limit);
    page.put(F::NbdClientsAccepted, &[], told.clients.nbd_accepted);
    page.put(F::NbdClientsTurnedAway, &[], told.clients.nbd_turned_away);
    page.put(F::QmpClients, &[], told.clients.qmp);
    page.put(F::RequestMemory, &[], told.memory.requests_bytes);
    page.put(F::RequestMemoryLimit, &[], told.memory.requests_limit_bytes);
    page.put(F::ResidentMemory, &[], told.memory.resident_bytes);
    if let Some(files) = process.open_files {
        page.put(F::OpenFiles, &[], files);
    }
    let began = process.began.duration_since(UNIX_EPOCH).unwrap_or_default();
    page.put(F::StartTime, &[], began.as_secs());
    page.text()
}

fn export(export: &ExportStatistics, page: &mut Page) {
    let name = export.name.as_str();
    for told in &export.operations {
        let labels = [name, told.operation.as_str()];
        page.put(F::ExportRequests, &labels, told.requests);
        page.put(F::ExportErrors, &labels, told.errors);
        if WITH_BYTES.contains(&labels[1]) {
            page.put(F::ExportBytes, &labels, told.bytes);
        }
    }
    page.put(F::ExportRefused, &[name], export.refused);
    page.put(F::ExportClients, &[name], export.clients);
}

fn disk(disk: &DiskStatistics, page: &mut Page) {
    let name = [disk.name.as_str()];
    page.put(F::DiskSize, &name, disk.size);
    if let Some(writes) = &disk.writes {
        // Every power of four is enough to see by; clients of QMP get those between, too.
        let up_to = writes.delayed.iter().step_by(2);
        let up_to = up_to.map(|delayed| (delayed.up_to_ns, delayed.writes));
        page.put_histogram(F::WriteDelay, &name, up_to, writes.writes, writes.delay_ns);
        page.put_seconds(F::WriteDelayWorst, &name, writes.delay_worst_ns);
        page.put_summary(
            F::WriteDevice,
            &name,
            writes.device_writes,
            writes.device_ns,
        );
        page.put(F::FenceWaits, &name, writes.fence_waits);
        page.put_seconds(F::FenceWaitWorst, &name, writes.fence_wait_worst_ns);
    }
    for bitmap in &disk.bitmaps {
        let labels = [disk.name.as_str(), bitmap.name.as_str()];
        page.put(F::BitmapDirty, &labels, bitmap.dirty_bytes);
    }
    if let Some(dirty) = disk.tracked_dirty_bytes {
        page.put(F::TrackedDirty, &name, dirty);
    }
}
