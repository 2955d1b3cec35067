//! Every way to end, as rows of bits: the worked example of QEMU's behaviour (16 clusters of 64 KiB, one worker).

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use cohort_bitmap::DirtyBitmap;
use cohort_block::{Fault, Faulty, MemoryDevice, OnMiss, Operation};
use cohort_job::{Disposition, Engine, JobHandle, JobSpec, Outcome, Status};

use super::*;

const CLUSTER: u64 = 64 << 10;
const BASE: &str = "0101010101010000";

/// What the observer was told.
struct Seen(Mutex<Option<Settled>>, Sender<Reaction>);

use std::sync::Mutex;

impl Observer for Seen {
    fn failed(&self, _: Side, _: &DeviceError, reaction: Reaction) {
        let _ = self.1.send(reaction);
    }

    fn settled(&self, settled: Option<Settled>, _: Ended) {
        *self.0.lock().unwrap() = settled;
    }

    fn over(&self) {}
}

/// A source with distinct clusters behind faults, an empty target behind faults, and a job from one to the other.
struct Stage {
    engine: Engine,
    source: Arc<Gated>,
    reads: Arc<Faulty>,
    writes: Arc<Faulty>,
    seen: Arc<Seen>,
    reactions: std::sync::mpsc::Receiver<Reaction>,
}

impl Stage {
    fn new() -> Self {
        let bytes: Vec<u8> = (0..16)
            .flat_map(|n| vec![n + 1; CLUSTER as usize])
            .collect();
        let reads = Arc::new(Faulty::new(Arc::new(MemoryDevice::with_bytes(
            "source", &bytes,
        ))));
        let target = MemoryDevice::new("target", 16 * CLUSTER);
        let writes = Arc::new(Faulty::new(Arc::new(target)));
        let (tell, reactions) = channel();
        Stage {
            engine: Engine::new().unwrap(),
            source: Arc::new(Gated::new(reads.clone())),
            reads,
            writes,
            seen: Arc::new(Seen(Mutex::default(), tell)),
            reactions,
        }
    }

    fn plan(&self, policy: BitmapPolicy) -> InPlace {
        InPlace {
            source: self.source.clone(),
            target: self.writes.clone(),
            part: Part::Bitmap,
            cluster: Granularity::DEFAULT,
            workers: 1,
            chunk: CLUSTER,
            policy,
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
            attempts: None,
            skip_limit: 0,
            patience: Patience {
                bound: Duration::from_secs(60),
                on_miss: OnMiss::BreakWrite,
            },
        }
    }

    /// Starts it; its job ends, or stands still where a fault of the test has it.
    fn start(&self, plan: InPlace) -> JobHandle {
        self.start_as(JobSpec::new("job"), plan)
    }

    fn start_as(&self, spec: JobSpec, plan: InPlace) -> JobHandle {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let prepared = plan.prepare(deadline).unwrap();
        let view = View::new(DirtyBitmap::from_row(BASE, Granularity::DEFAULT).unwrap());
        let mut closed = self.source.close("test", deadline).unwrap();
        closed.install_recorder(view.recorder().clone());
        let driver = prepared
            .start(&mut closed, Some(view), true, self.seen.clone())
            .unwrap();
        drop(closed);
        self.engine.launch(spec, driver).unwrap()
    }

    /// The rows that the bitmap is left with, against the last point and against the partial.
    fn rows(&self) -> (String, Option<String>) {
        let settled = self.seen.0.lock().unwrap();
        let settled = settled.as_ref().unwrap();
        let row = |view: &View| view.snapshot().to_row();
        (row(settled.point()), settled.partial().map(row))
    }

    fn target_has(&self, cluster: u64) -> u8 {
        let mut byte = [0];
        self.writes.read_at(&mut byte, cluster * CLUSTER).unwrap();
        byte[0]
    }
}

#[test]
fn success_leaves_what_was_written_since_and_never_leaves_all() {
    for (policy, expected) in [
        (BitmapPolicy::OnSuccess, "0110010000000000"),
        (BitmapPolicy::Always, "0110010000000000"),
        (BitmapPolicy::Never, "0111010101010000"),
    ] {
        let stage = Stage::new();
        let stall = stage.reads.inject(
            Fault::stall(Operation::Read)
                .within(5 * CLUSTER..6 * CLUSTER)
                .once(),
        );
        let job = stage.start(stage.plan(policy));
        stall.wait_for_strikes(1);
        // Copied already, and outside what is to be copied: neither waits.
        stage.source.write_at(&[99], CLUSTER).unwrap();
        stage.source.write_at(&[99], 2 * CLUSTER).unwrap();
        std::thread::scope(|scope| {
            // In flight: waits, then goes on.
            let write = scope.spawn(|| stage.source.write_at(&[99], 5 * CLUSTER).unwrap());
            stall.release();
            write.join().unwrap();
        });
        assert!(matches!(job.wait(), Some(Outcome::Committed { .. })));
        assert_eq!(stage.rows(), (expected.to_owned(), None), "{policy}");
        let copied: Vec<_> = (0..16).map(|n| stage.target_has(n)).collect();
        assert_eq!(
            copied,
            [0, 2, 0, 4, 0, 6, 0, 8, 0, 10, 0, 12, 0, 0, 0, 0],
            "{policy}"
        );
    }
}

#[test]
fn an_error_leaves_what_remains_only_where_the_policy_keeps_it() {
    for (policy, partial) in [
        (BitmapPolicy::OnSuccess, None),
        (BitmapPolicy::Always, Some("0000000001010000")),
        (BitmapPolicy::Ask, Some("0000000001010000")),
        (BitmapPolicy::Never, None),
    ] {
        let stage = Stage::new();
        stage
            .reads
            .inject(Fault::error(Operation::Read).within(9 * CLUSTER..10 * CLUSTER));
        let job = stage.start(stage.plan(policy));
        let Some(Outcome::Failed { error, .. }) = job.wait() else {
            panic!("{}", job.why())
        };
        assert_eq!(error.message(), "Input/output error");
        assert_eq!(stage.reactions.try_recv(), Ok(Reaction::Report));
        assert_eq!(
            stage.rows(),
            (BASE.to_owned(), partial.map(str::to_owned)),
            "{policy}"
        );
    }
}

#[test]
fn cancel_keeps_by_policy_and_discard_leaves_no_trace() {
    for (disposition, partial) in [
        (Disposition::Keep, Some("0000000101010000")),
        (Disposition::Discard, None),
    ] {
        let stage = Stage::new();
        let stall = stage.reads.inject(
            Fault::stall(Operation::Read)
                .within(7 * CLUSTER..8 * CLUSTER)
                .once(),
        );
        let job = stage.start(stage.plan(BitmapPolicy::Always));
        stall.wait_for_strikes(1);
        stage
            .reads
            .inject(Fault::error(Operation::Read).within(7 * CLUSTER..8 * CLUSTER));
        job.cancel(disposition).unwrap();
        stall.release();
        assert!(matches!(
            job.wait(),
            Some(Outcome::Cancelled { .. } | Outcome::Failed { .. })
        ));
        assert_eq!(
            stage.rows(),
            (BASE.to_owned(), partial.map(str::to_owned)),
            "{disposition:?}"
        );
    }
}

/// Everything is copied and durable by then, so that the policy would keep it.
#[test]
fn a_copy_that_waits_for_its_word_is_kept_by_policy_and_discarded_without_trace() {
    for (disposition, partial) in [
        (Disposition::Keep, Some("0000000000000000")),
        (Disposition::Discard, None),
    ] {
        let stage = Stage::new();
        let waits = JobSpec::new("job").manual_finalize();
        let job = stage.start_as(waits, stage.plan(BitmapPolicy::Always));
        while job.status() != Status::Pending {
            std::thread::yield_now();
        }
        job.cancel(disposition).unwrap();
        assert!(matches!(job.wait(), Some(Outcome::Cancelled { .. })));
        assert_eq!(
            stage.rows(),
            (BASE.to_owned(), partial.map(str::to_owned)),
            "{disposition:?}"
        );
    }
}

#[test]
fn a_target_whose_flush_failed_is_not_believed() {
    let stage = Stage::new();
    stage.writes.inject(Fault::error(Operation::Flush).once());
    let job = stage.start(stage.plan(BitmapPolicy::Always));
    let Some(Outcome::Failed { error, .. }) = job.wait() else {
        panic!("it committed");
    };
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    assert!(cause.is_some_and(|cause| cause.contains("cannot flush")));
    assert_eq!(
        stage.reactions.try_iter().collect::<Vec<_>>(),
        [Reaction::Report]
    );
    assert_eq!(stage.rows(), (BASE.to_owned(), None));
}

#[test]
fn the_last_of_many_copies_flushes_the_target_once() {
    let stage = Stage::new();
    let stall = stage.writes.inject(Fault::stall(Operation::Flush));
    let plan = InPlace {
        workers: 8,
        ..stage.plan(BitmapPolicy::OnSuccess)
    };
    let job = stage.start(plan);
    stall.wait_for_strikes(1);
    assert_eq!(job.status(), Status::Running);
    // Stepped meanwhile, it begins no other.
    job.pause().unwrap();
    job.resume().unwrap();
    stall.release();
    assert!(matches!(job.wait(), Some(Outcome::Committed { .. })));
    assert_eq!(stall.strikes(), 1);
    assert_eq!(stage.target_has(11), 12);
}

#[test]
fn stop_pauses_and_a_resumed_job_tries_again() {
    let stage = Stage::new();
    stage.writes.inject(
        Fault::error(Operation::Write)
            .within(3 * CLUSTER..4 * CLUSTER)
            .once(),
    );
    let plan = InPlace {
        on_target_error: OnError::Stop,
        ..stage.plan(BitmapPolicy::OnSuccess)
    };
    let job = stage.start(plan);
    assert_eq!(stage.reactions.recv(), Ok(Reaction::Stop));
    while job.resume().is_err() {
        std::thread::yield_now();
    }
    assert!(matches!(job.wait(), Some(Outcome::Committed { .. })));
    assert_eq!(stage.target_has(3), 4);
}

#[test]
fn ignored_errors_do_not_keep_the_rest_and_have_an_end() {
    let stage = Stage::new();
    stage
        .reads
        .inject(Fault::error(Operation::Read).within(CLUSTER..2 * CLUSTER));
    let plan = InPlace {
        on_source_error: OnError::Ignore,
        attempts: Some(3),
        ..stage.plan(BitmapPolicy::Always)
    };
    let job = stage.start(plan);
    assert!(matches!(job.wait(), Some(Outcome::Failed { .. })));
    let reactions: Vec<_> = stage.reactions.try_iter().collect();
    assert_eq!(
        reactions,
        [Reaction::Ignore, Reaction::Ignore, Reaction::Report]
    );
    assert_eq!(stage.rows().1.as_deref(), Some("0100000000000000"));
}

#[test]
fn skipped_clusters_stay_dirty_in_a_backup_that_succeeds() {
    let stage = Stage::new();
    stage
        .reads
        .inject(Fault::error(Operation::Read).within(3 * CLUSTER..4 * CLUSTER));
    let plan = InPlace {
        skip_limit: 1,
        ..stage.plan(BitmapPolicy::OnSuccess)
    };
    let job = stage.start(plan);
    assert!(matches!(job.wait(), Some(Outcome::Committed { .. })));
    assert_eq!(stage.rows(), ("0001000000000000".to_owned(), None));
}

#[test]
fn what_writers_overwrite_is_saved_and_nothing_else_is_copied() {
    let stage = Stage::new();
    let plan = InPlace {
        part: Part::Overwritten,
        ..stage.plan(BitmapPolicy::OnSuccess)
    };
    let job = stage.start(plan);
    stage.source.write_at(&[99], 4 * CLUSTER + 5).unwrap();
    assert_eq!((stage.target_has(4), stage.target_has(5)), (5, 0));
    job.cancel(Disposition::Keep).unwrap();
    assert!(matches!(job.wait(), Some(Outcome::Cancelled { .. })));
}
