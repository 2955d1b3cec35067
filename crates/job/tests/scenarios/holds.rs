//! Pauses of the user and of the engine, nested.

use std::time::Duration;

use cohort_job::core::{Event, Report, Request};
use cohort_job::{Refused, Status, Time, Verb, WaitsFor};

use crate::rig::{AUTO, DISCARD, MANUAL, Rig};

#[test]
fn second_pause_and_second_resume_are_refused() {
    let mut rig = Rig::launched(&[AUTO]);
    rig.ask(Request::Pause(0)).expect("it runs");
    let refused = Refused::AlreadyPaused {
        status: Status::Running,
    };
    assert_eq!(rig.ask(Request::Pause(0)), Err(refused));
    rig.ask(Request::Resume(0)).expect("a user paused it");
    let refused = Refused::NotPaused {
        status: Status::Running,
    };
    assert_eq!(rig.ask(Request::Resume(0)), Err(refused));
}

#[test]
fn paused_before_the_launch_shows_running_then_paused() {
    let mut rig = Rig::open(&[AUTO]);
    rig.ask(Request::Pause(0)).expect("it is created");
    rig.ask(Request::Launch).expect("it is launched once");
    assert_eq!(rig.path(0), "created running paused");
    assert!(rig.stepping.is_empty());
    rig.ask(Request::Resume(0)).expect("a user paused it");
    assert_eq!(
        (rig.statuses().as_str(), rig.stepping.len()),
        ("running", 1)
    );
}

#[test]
fn parked_until_the_last_of_nested_holds_is_released() {
    let mut rig = Rig::launched(&[AUTO]);
    for request in [Request::Hold(0), Request::Hold(0), Request::Pause(0)] {
        rig.ask(request).expect("holds nest");
    }
    rig.step(0, Report::Again);
    assert_eq!(rig.statuses(), "paused");
    rig.ask(Request::Resume(0)).expect("a user paused it");
    rig.ask(Request::Release(0)).expect("it is held twice");
    assert_eq!(rig.statuses(), "paused");
    let waits = WaitsFor::Resume {
        user: false,
        internal: 1,
    };
    assert_eq!(rig.core.waits_for(0), Some(waits));
    rig.ask(Request::Release(0)).expect("it is held once");
    assert_eq!(rig.path(0), "created running paused running");
    assert_eq!(rig.ask(Request::Release(0)), Err(Refused::NotHeld));
}

#[test]
fn forced_cancel_passes_an_engine_hold() {
    let mut rig = Rig::launched(&[AUTO]);
    rig.ask(Request::Pause(0)).expect("it runs");
    rig.ask(Request::Hold(0)).expect("holds nest");
    rig.step(0, Report::Again);
    rig.ask(Request::Cancel(0, DISCARD)).expect("it is paused");
    rig.settle();
    assert_eq!(
        rig.path(0),
        "created running paused running aborting CANCELLED concluded null"
    );
}

#[test]
fn soft_cancel_in_standby_waits_for_the_engine_hold() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.ready(0);
    rig.ask(Request::Hold(0)).expect("holds nest");
    rig.ask(Request::Pause(0)).expect("it is in standby");
    rig.ask(Request::Cancel(0, crate::rig::KEEP))
        .expect("it is in standby");
    assert_eq!(rig.statuses(), "standby");
    rig.ask(Request::Release(0)).expect("it is held");
    assert_eq!(rig.statuses(), "ready");
    rig.done(0);
    assert_eq!(rig.statuses(), "pending");
}

#[test]
fn pause_and_resume_after_the_end_are_refused() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.done(0);
    let refused = Refused::Status {
        verb: Verb::Pause,
        status: Status::Pending,
    };
    assert_eq!(rig.ask(Request::Pause(0)), Err(refused));
    // The flag is looked at first.
    let refused = Refused::NotPaused {
        status: Status::Pending,
    };
    assert_eq!(rig.ask(Request::Resume(0)), Err(refused));
}

#[test]
fn spurious_wake_of_a_parked_job_is_invisible() {
    let mut rig = Rig::launched(&[AUTO]);
    rig.ask(Request::Pause(0)).expect("it runs");
    rig.step(0, Report::Wait);
    let before = rig.core.clone();
    let logged = rig.log.len();
    rig.tell(Event::Woken(0));
    assert_eq!((rig.core == before, rig.log.len()), (true, logged));
}

#[test]
fn a_sleeper_parks_at_once_and_does_not_sleep_the_rest() {
    let mut rig = Rig::launched(&[AUTO]);
    rig.step(0, Report::Sleep(Time(Duration::from_secs(60))));
    assert_eq!(rig.core.waits_for(0), Some(WaitsFor::Driver));
    rig.ask(Request::Pause(0)).expect("it sleeps");
    assert_eq!(rig.statuses(), "paused");
    rig.ask(Request::Resume(0)).expect("a user paused it");
    assert_eq!(rig.stepping, [0]);
}

#[test]
fn a_sleep_sets_an_alarm_unless_it_is_cut_short() {
    let alarms = |rig: &Rig| {
        let set = |line: &&String| line.starts_with("WakeAt");
        rig.log.iter().filter(set).count()
    };
    let sleep = || Report::Sleep(Time(Duration::from_secs(60)));
    let mut rig = Rig::launched(&[AUTO]);
    rig.step(0, sleep());
    assert_eq!(alarms(&rig), 1);
    for asked in [Request::Pause(0), Request::Cancel(0, DISCARD)] {
        let mut rig = Rig::launched(&[AUTO]);
        rig.ask(asked).expect("it runs");
        rig.step(0, sleep());
        assert_eq!(alarms(&rig), 0);
    }
    let mut rig = Rig::launched(&[AUTO]);
    rig.tell(Event::Woken(0));
    rig.step(0, sleep());
    assert_eq!((alarms(&rig), rig.stepping.len()), (0, 1));
}

#[test]
fn paused_is_announced_only_when_the_last_task_has_ended() {
    let mut rig = Rig::launched(&[AUTO]);
    rig.tell(Event::Spawned {
        member: 0,
        tasks: 2,
    });
    rig.ask(Request::Pause(0)).expect("it runs");
    rig.step(0, Report::Wait);
    rig.tell(Event::TaskEnded(0));
    assert_eq!(rig.core.waits_for(0), Some(WaitsFor::Tasks(1)));
    assert_eq!(rig.statuses(), "running");
    rig.tell(Event::TaskEnded(0));
    assert_eq!(rig.statuses(), "paused");
}

#[test]
fn raising_the_speed_wakes_a_sleeper_and_lowering_does_not() {
    let mut rig = Rig::launched(&[AUTO]);
    rig.step(0, Report::Sleep(Time(Duration::from_secs(16))));
    rig.ask(Request::SetSpeed {
        member: 0,
        raises: false,
    })
    .expect("it runs");
    assert!(rig.stepping.is_empty());
    rig.ask(Request::SetSpeed {
        member: 0,
        raises: true,
    })
    .expect("it runs");
    assert_eq!(rig.stepping, [0]);
}

#[test]
fn a_wake_during_a_step_is_not_lost() {
    let mut rig = Rig::launched(&[AUTO]);
    rig.tell(Event::Woken(0));
    rig.step(0, Report::Wait);
    assert_eq!(rig.stepping, [0]);
    rig.step(0, Report::Wait);
    assert!(rig.stepping.is_empty());
}
