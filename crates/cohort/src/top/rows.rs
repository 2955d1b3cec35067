//! What there is to show of what was seen: rows of jobs and of disks, and what is told of the server as a whole.

use std::time::Duration;

use cohort_qmp::{DelayedWrites, DiskStatistics, ExportStatistics, Statistics};

use super::ask::Sample;
use crate::commands::Job;
use crate::human;

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct JobRow {
    /// Its group at the first job of several, and a line down to the last.
    pub(super) group: String,
    pub(super) id: String,
    pub(super) status: String,
    pub(super) is_paused: bool,
    /// How much of it is done, as far as is known.
    pub(super) share: Option<f64>,
    pub(super) done: String,
    pub(super) rate: String,
    pub(super) left: String,
    /// What went wrong.
    pub(super) trouble: String,
    /// How fast it may be.
    pub(super) limit: String,
}

/// A disk and what is exported of it under the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskRow {
    pub(super) name: String,
    pub(super) clients: String,
    pub(super) read: String,
    pub(super) written: String,
    pub(super) requests: String,
    pub(super) errors: String,
    /// What 99 writes in a hundred were held up at most.
    pub(super) held_up: String,
    pub(super) held_up_worst: String,
    /// What the disk itself took for a write, on average.
    pub(super) own: String,
    /// What each bitmap says is dirty.
    pub(super) dirty: String,
}

/// What is not known.
const UNKNOWN: &str = "-";

/// The jobs, those of one group beside each other.
pub(super) fn jobs(now: &Sample, before: Option<&Sample>) -> Vec<JobRow> {
    let mut left: Vec<&Job> = now.jobs.iter().collect();
    let mut rows = Vec::new();
    let groups = now.statistics.iter().flat_map(|told| &told.groups);
    for group in groups {
        let is_of = |job: &&Job| group.jobs.contains(&job.id);
        let (members, others) = left.into_iter().partition::<Vec<_>, _>(is_of);
        left = others;
        let last = members.len().saturating_sub(1);
        for (at, job) in members.into_iter().enumerate() {
            let label = match at {
                _ if last == 0 => String::new(),
                0 => format!("{} ({})", group.name, group.phase),
                _ if at == last => "└".to_owned(),
                _ => "├".to_owned(),
            };
            rows.push(job_row(label, job, since(job, now, before)));
        }
    }
    let others = left.into_iter();
    rows.extend(others.map(|job| job_row(String::new(), job, since(job, now, before))));
    rows
}

/// What a job got done since it was looked at before, and how long that took.
fn since(job: &Job, now: &Sample, before: Option<&Sample>) -> Option<(u64, Duration)> {
    let before = before?;
    let old = before.jobs.iter().find(|old| old.id == job.id)?;
    Some((job.done.checked_sub(old.done)?, now.at - before.at))
}

fn job_row(group: String, job: &Job, since: Option<(u64, Duration)>) -> JobRow {
    // What does not copy counts in a unit of its own.
    let unit = match job.block {
        Some(_) => human::bytes,
        None => human::count,
    };
    let rate = since.map(|(done, time)| done as f64 / time.as_secs_f64().max(1e-3));
    let rate = rate.filter(|_| job.status == "running" || job.status == "ready");
    let left = rate.filter(|rate| *rate >= 1.0 && job.total > job.done);
    let left = left.map(|rate| Duration::from_secs_f64((job.total - job.done) as f64 / rate));
    let block = job.block.as_ref();
    let is_paused = block.is_some_and(|block| block.paused)
        || matches!(job.status.as_str(), "paused" | "standby");
    JobRow {
        group,
        id: job.id.clone(),
        status: job.status.clone(),
        is_paused,
        share: (job.total > 0).then(|| (job.done as f64 / job.total as f64).min(1.0)),
        done: format!("{} of {}", unit(job.done), unit(job.total)),
        rate: rate.map_or_else(unknown, |rate| format!("{}/s", unit(rate as u64))),
        left: left.map_or_else(unknown, human::duration),
        trouble: trouble(job),
        limit: limit(job),
    }
}

fn trouble(job: &Job) -> String {
    let io_status = job.block.as_ref().map(|block| block.io_status.as_str());
    match (&job.error, io_status) {
        (Some(error), _) => error.clone(),
        (None, Some("nospace")) => "no space left".to_owned(),
        (None, Some("failed")) => "an I/O error".to_owned(),
        (None, _) => String::new(),
    }
}

fn limit(job: &Job) -> String {
    let speed = job.block.as_ref().map_or(0, |block| block.speed_bytes);
    match speed {
        0 => String::new(),
        limit => format!("limit {}/s", human::bytes(limit)),
    }
}

/// The disks and exports, those of one name in one row.
pub(super) fn disks(now: &Sample, before: Option<&Sample>) -> Vec<DiskRow> {
    let Some(told) = &now.statistics else {
        return Vec::new();
    };
    let old = before.and_then(|before| Some((before.statistics.as_ref()?, now.at - before.at)));
    let exports = told.exports.iter().map(|export| export.name.as_str());
    let mut names: Vec<_> = told.disks.iter().map(|disk| disk.name.as_str()).collect();
    names.extend(exports.filter(|name| !told.disks.iter().any(|disk| disk.name == *name)));
    names
        .into_iter()
        .map(|name| disk_row(name, told, old))
        .collect()
}

fn disk_row(name: &str, now: &Statistics, old: Option<(&Statistics, Duration)>) -> DiskRow {
    let export = export(now, name);
    let rate = |of: fn(&ExportStatistics) -> u64| {
        let (before, time) = old?;
        let before = self::export(before, name)?;
        let more = of(export?).checked_sub(of(before))?;
        Some(more as f64 / time.as_secs_f64().max(1e-3))
    };
    let bytes = |rate: Option<f64>| {
        rate.map_or_else(unknown, |rate| format!("{}/s", human::bytes(rate as u64)))
    };
    let disk = disk(now, name);
    let writes = disk.and_then(|disk| disk.writes.as_ref());
    let before = old.and_then(|(old, _)| self::disk(old, name)?.writes.as_ref());
    DiskRow {
        name: name.to_owned(),
        clients: export.map_or_else(unknown, |export| export.clients.to_string()),
        read: bytes(rate(|export| moved(export, "read"))),
        written: bytes(rate(|export| moved(export, "write"))),
        requests: rate(requests).map_or_else(unknown, |rate| human::count(rate as u64)),
        errors: export.map_or_else(unknown, |export| human::count(errors(export))),
        held_up: writes
            .and_then(|writes| match before {
                Some(before) => lately(
                    &before.delayed,
                    &writes.delayed,
                    before.writes,
                    writes.writes,
                ),
                None => (writes.writes > 0).then(|| human::brief(writes.delay_p99_ns)),
            })
            .unwrap_or_else(unknown),
        held_up_worst: writes
            .filter(|writes| writes.writes > 0)
            .map_or_else(unknown, |writes| human::brief(writes.delay_worst_ns)),
        own: writes
            .and_then(|writes| {
                let (count, time) = match before {
                    Some(before) => (
                        writes.device_writes.checked_sub(before.device_writes)?,
                        writes.device_ns.checked_sub(before.device_ns)?,
                    ),
                    None => (writes.device_writes, writes.device_ns),
                };
                time.checked_div(count).map(human::brief)
            })
            .unwrap_or_else(unknown),
        dirty: disk.map_or_else(String::new, dirty),
    }
}

/// What 99 of a hundred writes of late were held up at most: the end of the bucket that the last of them is in.
fn lately(
    before: &[DelayedWrites],
    now: &[DelayedWrites],
    all_before: u64,
    all_now: u64,
) -> Option<String> {
    let writes = all_now
        .checked_sub(all_before)
        .filter(|writes| *writes > 0)?;
    let enough = writes - writes / 100;
    let pairs = before.iter().zip(now);
    let mut up_to = pairs.filter(|(old, new)| new.writes.saturating_sub(old.writes) >= enough);
    Some(match (up_to.next(), now.last()) {
        (Some((_, new)), _) => format!("<{}", human::brief(new.up_to_ns + 1)),
        (None, Some(last)) => format!(">{}", human::brief(last.up_to_ns)),
        (None, None) => unknown(),
    })
}

/// What the lines above the tables say.
pub(super) fn head(server: &str, now: Option<&Sample>) -> [String; 3] {
    let several = |count: u64, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{} {what}s", human::count(count)),
    };
    let Some(now) = now else {
        let waits = "waiting for the first answer".to_owned();
        return [server.to_owned(), waits, String::new()];
    };
    let jobs = several(now.jobs.len() as u64, "job");
    let Some(told) = &now.statistics else {
        let less = "this server tells no figures of groups and disks".to_owned();
        return [server.to_owned(), jobs, less];
    };
    let (clients, decided, fences) = (&told.clients, &told.decided, &told.fences);
    let groups = several(told.groups.len() as u64, "group");
    let nbd = several(clients.nbd, "NBD client");
    let memory = human::bytes(told.memory.resident_bytes);
    let committed = human::count(decided.committed);
    let aborted = human::count(decided.aborted);
    let fence = match fences.fences {
        0 => "no fence so far".to_owned(),
        count => format!(
            "{} so far, the last of {}, the worst of {}",
            several(count, "fence"),
            human::brief(fences.last_ns),
            human::brief(fences.worst_ns)
        ),
    };
    [
        format!("{server}: {nbd}, {} QMP, memory {memory}", clients.qmp),
        format!("{jobs} in {groups}; decided so far: {committed} committed, {aborted} aborted"),
        fence,
    ]
}

fn export<'a>(told: &'a Statistics, name: &str) -> Option<&'a ExportStatistics> {
    told.exports.iter().find(|export| export.name == name)
}

fn disk<'a>(told: &'a Statistics, name: &str) -> Option<&'a DiskStatistics> {
    told.disks.iter().find(|disk| disk.name == name)
}

fn moved(export: &ExportStatistics, operation: &str) -> u64 {
    let of = export
        .operations
        .iter()
        .filter(|told| told.operation == operation);
    of.map(|told| told.bytes).sum()
}

fn requests(export: &ExportStatistics) -> u64 {
    export.operations.iter().map(|told| told.requests).sum()
}

fn errors(export: &ExportStatistics) -> u64 {
    export.operations.iter().map(|told| told.errors).sum()
}

/// What is dirty by each bitmap, and against the last point.
fn dirty(disk: &DiskStatistics) -> String {
    let bitmaps = disk.bitmaps.iter();
    let mut told: Vec<_> = bitmaps
        .map(|bitmap| format!("{} {}", bitmap.name, human::bytes(bitmap.dirty_bytes)))
        .collect();
    let tracked = disk.tracked_dirty_bytes;
    told.extend(tracked.map(|bytes| format!("point {}", human::bytes(bytes))));
    told.join(", ")
}

fn unknown() -> String {
    UNKNOWN.to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use cohort_qmp::{
        BitmapStatistics, ClientStatistics, Decided, FenceStatistics, GroupState, MemoryStatistics,
        OperationStatistics, WriteStatistics,
    };

    use super::*;
    use crate::commands::BlockJob;

    /// A backup at work, through with nothing of 8 MiB.
    pub(in super::super) fn job(id: &str) -> Job {
        Job {
            id: id.to_owned(),
            kind: "backup".to_owned(),
            status: "running".to_owned(),
            done: 0,
            total: 8 << 20,
            error: None,
            block: Some(BlockJob {
                paused: false,
                speed_bytes: 0,
                io_status: "ok".to_owned(),
            }),
        }
    }

    /// What a server says that tells no figures.
    pub(in super::super) fn sample(seconds: u64, jobs: Vec<Job>) -> Sample {
        Sample {
            at: Duration::from_secs(seconds),
            jobs,
            statistics: None,
        }
    }

    /// What our server says; of the disk `vda`, to which `writes` were written, a tenth of them held up for 3 ms.
    pub(in super::super) fn statistics(writes: u64, groups: Vec<GroupState>) -> Statistics {
        let delayed = (10..=34).map(|power| {
            let up_to_ns = (1 << power) - 1;
            let quick = writes - writes / 10;
            DelayedWrites {
                up_to_ns,
                writes: if up_to_ns >= 3_000_000 { writes } else { quick },
            }
        });
        let operation = |name: &str, requests, bytes| OperationStatistics {
            operation: name.to_owned(),
            requests,
            errors: 0,
            bytes,
        };
        Statistics {
            exports: vec![ExportStatistics {
                name: "vda".to_owned(),
                clients: 2,
                operations: vec![
                    operation("read", 10, 40_960),
                    operation("write", writes, writes << 12),
                ],
                refused: 0,
            }],
            disks: vec![DiskStatistics {
                name: "vda".to_owned(),
                size: 64 << 20,
                writes: Some(WriteStatistics {
                    writes,
                    delayed: delayed.collect(),
                    delay_ns: writes / 10 * 3_000_000,
                    delay_p99_ns: 3_000_000,
                    delay_worst_ns: 3_100_000,
                    fence_waits: 0,
                    fence_wait_worst_ns: 0,
                    device_writes: writes,
                    device_ns: writes * 12_500,
                }),
                bitmaps: vec![BitmapStatistics {
                    name: "nightly".to_owned(),
                    dirty_bytes: 3 << 20,
                }],
                tracked_dirty_bytes: Some(1 << 20),
            }],
            groups,
            decided: Decided {
                committed: 1204,
                aborted: 3,
            },
            fences: FenceStatistics {
                fences: 7,
                last_ns: 77_600,
                worst_ns: 1_204_000,
            },
            clients: ClientStatistics {
                nbd: 2,
                nbd_limit: 1000,
                nbd_accepted: 9,
                nbd_turned_away: 0,
                qmp: 1,
            },
            memory: MemoryStatistics {
                requests_bytes: 0,
                requests_limit_bytes: 64 << 20,
                resident_bytes: 12 << 20,
            },
        }
    }

    pub(in super::super) fn group(name: &str, jobs: &[&str]) -> GroupState {
        GroupState {
            name: name.to_owned(),
            phase: "open".to_owned(),
            jobs: jobs.iter().map(|job| (*job).to_owned()).collect(),
        }
    }

    #[test]
    fn jobs_of_a_group_stand_together_under_its_name_and_others_alone() {
        let groups = vec![group("lone", &["lone"]), group("nightly", &["vda", "vdb"])];
        let jobs = ["vda", "lone", "vdb", "outside"].map(job);
        let mut sample = sample(0, jobs.to_vec());
        sample.statistics = Some(statistics(0, groups));
        let rows = super::jobs(&sample, None);
        let told: Vec<_> = rows.iter().map(|row| (&*row.group, &*row.id)).collect();
        assert_eq!(
            told,
            [
                ("", "lone"),
                ("nightly (open)", "vda"),
                ("└", "vdb"),
                ("", "outside")
            ]
        );
    }

    #[test]
    fn a_job_tells_its_rate_of_late_and_how_long_it_will_take() {
        let before = sample(1, vec![job("a"), job("b")]);
        let mut now = sample(3, vec![job("a"), job("b")]);
        (now.jobs[0].done, now.jobs[1].done) = (2 << 20, 2 << 20);
        now.jobs[1].status = "paused".to_owned();
        let rows = super::jobs(&now, Some(&before));
        let told = |row: &JobRow| (row.rate.clone(), row.left.clone(), row.is_paused);
        assert_eq!(told(&rows[0]), ("1.00 MiB/s".into(), "6.0 s".into(), false));
        assert_eq!(told(&rows[1]), ("-".into(), "-".into(), true));
        assert_eq!(
            (rows[0].share, &*rows[0].done),
            (Some(0.25), "2.00 MiB of 8.00 MiB")
        );
        let first = super::jobs(&now, None);
        assert_eq!(&*first[0].rate, "-", "nothing to compare with");
    }

    #[test]
    fn a_disk_tells_what_was_lately() {
        let (mut before, mut now) = (sample(0, vec![]), sample(2, vec![]));
        before.statistics = Some(statistics(1000, vec![]));
        now.statistics = Some(statistics(3000, vec![]));
        let rows = disks(&now, Some(&before));
        assert_eq!(
            rows,
            [DiskRow {
                name: "vda".into(),
                clients: "2".into(),
                read: "0 B/s".into(),
                written: "3.91 MiB/s".into(),
                requests: "1,000".into(),
                errors: "0".into(),
                held_up: "<4.19 ms".into(),
                held_up_worst: "3.10 ms".into(),
                own: "12.5 µs".into(),
                dirty: "nightly 3.00 MiB, point 1.00 MiB".into(),
            }]
        );
        let quiet = disks(&now, Some(&now.clone()));
        assert_eq!((&*quiet[0].held_up, &*quiet[0].own), ("-", "-"));
        let first = disks(&now, None);
        assert_eq!((&*first[0].held_up, &*first[0].written), ("3.00 ms", "-"));
    }
}
