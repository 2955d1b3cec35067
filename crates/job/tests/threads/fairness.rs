//! Nobody starves: not behind jobs that always have more to do, not behind huge groups.

use cohort_job::{Context, Driver, JobSpec, Step};

use crate::kit::{Act, COMMITTED, KEEP, Stage, outcome};

/// Always has more to do.
struct Restless;

impl Driver for Restless {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        Step::Again
    }
}

#[test]
fn sixteen_jobs_that_always_say_again_do_not_starve_a_new_group() {
    let stage = Stage::new();
    let busy: Vec<_> = (0..16)
        .map(|number| {
            stage
                .engine
                .launch(JobSpec::new(format!("busy{number}")), Restless)
                .unwrap()
        })
        .collect();
    for _ in 0..20 {
        let (jobs, puppets) = stage.group(3, |spec| spec);
        puppets.iter().for_each(|puppet| puppet.act(Act::Done));
        jobs.iter()
            .for_each(|job| assert_eq!(outcome(job), COMMITTED));
    }
    for job in busy {
        job.cancel(KEEP).unwrap();
        outcome(&job);
    }
}

#[test]
fn a_huge_restless_group_does_not_starve_a_lone_job() {
    let stage = Stage::new();
    let mut txn = stage.engine.group("huge");
    for _ in 0..5_000 {
        txn.add(JobSpec::unnamed(), Restless).unwrap();
    }
    let huge = txn.launch();
    let (job, puppet) = stage.launch(JobSpec::new("lone"));
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
    huge.cancel(KEEP).unwrap();
    huge.wait_until(crate::kit::deadline()).expect("it stops");
}
