//! Notices: numbered, bounded, and never in the engine's way.

use cohort_job::{Engine, JobSpec, News, Status, Update};

use crate::kit::{Act, COMMITTED, PATIENCE, Stage, outcome};

#[test]
fn notices_are_numbered_without_gaps() {
    let stage = Stage::new();
    let listener = stage.engine.subscribe(1_000);
    let (jobs, puppets) = stage.group(3, |spec| spec);
    puppets.iter().for_each(|puppet| puppet.act(Act::Done));
    jobs.iter()
        .for_each(|job| assert_eq!(outcome(job), COMMITTED));
    let mut last = None;
    while let Some(update) = listener.try_recv() {
        let Update::Notice(notice) = update else {
            panic!("there was room")
        };
        assert!(last.is_none_or(|last| notice.seq == last + 1));
        last = Some(notice.seq);
    }
    assert!(last.is_some());
}

#[test]
fn a_full_subscriber_loses_the_new_ones_and_learns_how_many() {
    let stage = Stage::new();
    let listener = stage.engine.subscribe(3);
    let witness = stage.engine.subscribe(1_000);
    let (job, puppet) = stage.launch(JobSpec::new("id0").manual_dismiss());
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
    let all = std::iter::from_fn(|| witness.try_recv()).count() as u64;
    let first: Vec<_> = (0..3).map(|_| listener.try_recv().unwrap()).collect();
    assert!(
        first
            .iter()
            .all(|update| matches!(update, Update::Notice(_)))
    );
    assert_eq!(
        listener.try_recv(),
        Some(Update::Lagged { missed: all - 3 })
    );
    assert_eq!(listener.try_recv(), None);

    // A snapshot brings the listener up to date, and what comes after it comes again.
    let snapshot = stage.engine.snapshot();
    assert_eq!(
        (snapshot.jobs.len(), snapshot.jobs[0].status),
        (1, Status::Concluded)
    );
    job.dismiss().unwrap();
    let Some(Update::Notice(notice)) = listener.recv_timeout(PATIENCE) else {
        panic!("a notice")
    };
    assert!(notice.seq > snapshot.seq);
    assert!(matches!(notice.news, News::Status(_, Status::Null)));
}

#[test]
fn a_lag_is_learnt_before_what_comes_after_it() {
    let stage = Stage::new();
    let listener = stage.engine.subscribe(1);
    let (job, puppet) = stage.launch(JobSpec::new("id0").manual_dismiss());
    puppet.act(Act::Done);
    outcome(&job);
    assert!(matches!(listener.try_recv(), Some(Update::Notice(_))));
    // There is room again, but the gap was not told yet.
    job.dismiss().unwrap();
    assert!(matches!(listener.try_recv(), Some(Update::Lagged { .. })));
    assert_eq!(listener.try_recv(), None);
}

#[test]
fn a_dropped_subscriber_is_forgotten() {
    let stage = Stage::new();
    for _ in 0..10 {
        drop(stage.engine.subscribe(1));
    }
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn a_subscription_ends_when_the_engine_is_gone() {
    let engine = Engine::builder().threads(1).build().unwrap();
    let listener = engine.subscribe(100);
    drop(engine);
    assert_eq!(listener.recv(), None);
}
