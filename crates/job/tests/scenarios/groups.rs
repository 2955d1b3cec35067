//! Groups that end well, and groups that do not.

use cohort_job::core::Request;

use crate::rig::{AUTO, Rig};

#[test]
fn a_lone_job_lives_through_every_status_of_success() {
    let mut rig = Rig::launched(&[AUTO]);
    rig.done(0);
    rig.settle();
    assert_eq!(
        rig.log,
        [
            "0:created",
            "0:running",
            "0:waiting",
            "0:pending",
            "prepare 0",
            "decide commit",
            "Decided(Commit)",
            "commit 0",
            "clean 0",
            "0:COMPLETED",
            "0:concluded",
            "0:null",
        ]
    );
    assert_eq!(rig.ended, Some(false));
}

#[test]
fn an_empty_group_is_done_at_once() {
    let mut rig = Rig::open(&[]);
    rig.ask(Request::Launch).expect("it may be empty");
    assert_eq!(rig.ended, Some(false));
    assert_eq!(rig.deciding, None);
}
