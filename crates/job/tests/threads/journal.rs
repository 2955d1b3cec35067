//! The verdict and the journal: written once, before any hook, and replayed at the next start.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, ThreadId};

use cohort_job::{
    Cause, Context, Driver, Engine, Entry, ErasedDriver, GroupName, JobSpec, Journal, JournalError,
    MemoryJournal, News, Owed, Step, Verdict,
};

use crate::kit::{Act, COMMITTED, KEEP, Puppet, Stage, deadline, outcome};

/// A journal that remembers, counts, and fails or notes on command.
#[derive(Default)]
struct Probe {
    memory: MemoryJournal,
    fails: AtomicBool,
    decides: AtomicUsize,
    seen: Mutex<Vec<String>>,
    watched: Mutex<Vec<Puppet>>,
}

impl Journal for Probe {
    fn decide(
        &self,
        group: &GroupName,
        verdict: &Verdict,
        records: &[Entry],
    ) -> Result<(), JournalError> {
        self.decides.fetch_add(1, Ordering::SeqCst);
        let calls: Vec<_> = self
            .watched
            .lock()
            .unwrap()
            .iter()
            .map(Puppet::calls)
            .collect();
        self.seen.lock().unwrap().push(calls.join("|"));
        if self.fails.load(Ordering::SeqCst) {
            return Err(JournalError::new("the journal's disk is full"));
        }
        self.memory.decide(group, verdict, records)
    }

    fn owed(&self) -> Result<Vec<Owed>, JournalError> {
        self.memory.owed()
    }

    fn done(&self, owed: &Owed) -> Result<(), JournalError> {
        self.memory.done(owed)
    }
}

fn over(journal: &Arc<Probe>) -> Stage {
    Stage::with(
        Engine::builder()
            .threads(2)
            .journal(Arc::clone(journal) as Arc<dyn Journal>),
    )
}

#[test]
fn the_verdict_is_written_once_after_every_prepare_and_before_any_commit() {
    let journal = Arc::new(Probe::default());
    let stage = over(&journal);
    let (jobs, puppets) = stage.group(2, |spec| spec);
    *journal.watched.lock().unwrap() = puppets.clone();
    puppets.iter().for_each(|puppet| puppet.act(Act::Done));
    assert_eq!(
        (outcome(&jobs[0]), outcome(&jobs[1])),
        (COMMITTED, COMMITTED)
    );
    assert_eq!(*journal.seen.lock().unwrap(), ["prepare|prepare"]);
    assert_eq!(
        journal.owed().unwrap(),
        [],
        "every hook returned, so nothing is owed"
    );
}

#[test]
fn an_abort_is_written_before_any_abort_hook() {
    let journal = Arc::new(Probe::default());
    let stage = over(&journal);
    let (jobs, puppets) = stage.group(2, |spec| spec);
    *journal.watched.lock().unwrap() = puppets.clone();
    puppets[0].act(Act::Fail("no"));
    outcome(&jobs[0]);
    assert_eq!(*journal.seen.lock().unwrap(), ["|"]);
}

#[test]
fn a_failed_write_leaves_the_group_in_doubt_and_the_journal_takes_no_more() {
    let journal = Arc::new(Probe::default());
    let mut stage = over(&journal);
    journal.fails.store(true, Ordering::SeqCst);
    let (jobs, puppets) = stage.group(2, |spec| spec);
    puppets.iter().for_each(|puppet| puppet.act(Act::Done));
    stage.until_news("in doubt", |news| matches!(news, News::InDoubt(_)));
    assert!(jobs[0].txn().in_doubt());
    assert_eq!(
        (jobs[0].wait(), jobs[0].txn().wait()),
        (None, None),
        "no waiting helps"
    );
    assert!(jobs[1].why().contains("in doubt"), "{}", jobs[1].why());
    assert!(
        jobs[1]
            .cancel(KEEP)
            .unwrap_err()
            .to_string()
            .contains("not known before the next start")
    );
    assert_eq!(
        puppets[0].calls(),
        "prepare",
        "no hook was called on a guess"
    );

    // The disk has room again, but this process has lost its trust in the journal.
    journal.fails.store(false, Ordering::SeqCst);
    let (late, puppet) = stage.launch(JobSpec::new("late"));
    puppet.act(Act::Done);
    let id = late.txn().id();
    stage.until_news("in doubt as well", |news| {
        matches!(news, News::InDoubt(error) if error.to_string().contains("takes no more verdicts"))
    });
    assert!(late.txn().in_doubt(), "{id}");
    assert_eq!(journal.decides.load(Ordering::SeqCst), 1);
    let left = stage.engine.shutdown(deadline());
    assert_eq!(
        left.len(),
        2,
        "a shutdown names them and does not wait for them"
    );
}

#[test]
fn a_panicking_journal_is_a_failed_write() {
    struct Broken;
    impl Journal for Broken {
        fn decide(&self, _: &GroupName, _: &Verdict, _: &[Entry]) -> Result<(), JournalError> {
            crate::kit::panics("no pages left")
        }
        fn owed(&self) -> Result<Vec<Owed>, JournalError> {
            Ok(Vec::new())
        }
        fn done(&self, _: &Owed) -> Result<(), JournalError> {
            Ok(())
        }
    }
    let mut stage = Stage::with(Engine::builder().journal(Arc::new(Broken)));
    let (_job, puppet) = stage.launch(JobSpec::new("id0"));
    puppet.act(Act::Done);
    stage.until_news(
        "in doubt",
        |news| matches!(news, News::InDoubt(error) if error.to_string().contains("no pages left")),
    );
}

/// What a start finds in a journal: the calls of the drivers it rebuilt, by name, once all are over.
fn restart(journal: &Arc<Probe>, known: &[&str]) -> Vec<(String, Vec<u8>, String)> {
    let stage = over(journal);
    let mut rebuilt = Vec::new();
    let recovered = stage
        .engine
        .recover(|_, name, kind, record| {
            assert_eq!(kind.as_str(), "puppet");
            if !known.contains(&name.as_str()) {
                return None;
            }
            let (driver, puppet) = Puppet::new();
            rebuilt.push((name.to_string(), record.0.clone(), puppet));
            Some(Box::new(driver) as Box<dyn ErasedDriver>)
        })
        .unwrap();
    for group in &recovered.groups {
        group.wait_until(deadline()).expect("replayed groups end");
    }
    rebuilt
        .into_iter()
        .map(|(name, record, puppet)| (name, record, puppet.calls()))
        .collect()
}

/// Two puppets with records, of which one has a hook that never comes to its end in this process.
fn crash(journal: &Arc<Probe>, hook: &'static str, commits: bool) {
    let stage = over(journal);
    let (jobs, puppets) = stage.group(2, |spec| spec.kind("puppet"));
    puppets[0].records(b"zero");
    puppets[1].records(b"one");
    puppets[1].panics_in(hook);
    if !commits {
        // Both are prepared, then the last one says no: both have left something.
        puppets[1].refuses();
    }
    puppets.iter().for_each(|puppet| puppet.act(Act::Done));
    outcome(&jobs[0]);
}

#[test]
fn a_commit_that_was_not_finished_is_replayed_until_it_is() {
    let journal = Arc::new(Probe::default());
    crash(&journal, "commit", true);
    let again = |name: &str, record: &[u8]| {
        (
            name.to_owned(),
            record.to_vec(),
            "commit-again clean dropped".to_owned(),
        )
    };
    assert_eq!(
        restart(&journal, &["j0", "j1"]),
        [again("j0", b"zero"), again("j1", b"one")]
    );
    assert_eq!(restart(&journal, &["j0", "j1"]), []);
    assert_eq!(
        journal.decides.load(Ordering::SeqCst),
        1,
        "a replay asks for no second verdict"
    );
}

#[test]
fn an_abort_that_was_not_finished_is_replayed() {
    let journal = Arc::new(Probe::default());
    crash(&journal, "abort", false);
    let calls = restart(&journal, &["j0", "j1"]);
    assert_eq!(
        calls,
        [(
            "j0".into(),
            b"zero".to_vec(),
            "abort-again(Failed(1),Keep) clean dropped".into()
        )]
    );
    assert_eq!(restart(&journal, &["j0", "j1"]), []);
}

#[test]
fn a_member_that_nobody_can_rebuild_keeps_its_group_owed() {
    let journal = Arc::new(Probe::default());
    crash(&journal, "clean", true);
    assert_eq!(restart(&journal, &["j0"]).len(), 1);
    assert_eq!(
        restart(&journal, &["j0", "j1"]).len(),
        2,
        "nothing was forgotten"
    );
    assert_eq!(restart(&journal, &["j0", "j1"]), []);
}

#[test]
fn a_hook_that_is_owed_stays_so_when_its_jobs_name_comes_back() {
    let journal = Arc::new(Probe::default());
    let stage = over(&journal);
    for (record, panics) in [(&b"monday"[..], true), (b"tuesday", false)] {
        let (job, puppet) = stage.launch(JobSpec::new("site").kind("puppet"));
        puppet.records(record);
        if panics {
            puppet.panics_in("commit");
        }
        puppet.act(Act::Done);
        assert_eq!(outcome(&job), COMMITTED);
    }
    let again = (
        "site".into(),
        b"monday".to_vec(),
        "commit-again clean dropped".into(),
    );
    assert_eq!(restart(&journal, &["site"]), [again]);
    assert_eq!(restart(&journal, &["site"]), []);
}

#[test]
fn a_process_that_ends_between_verdict_and_hooks_owes_them_all() {
    // As a crash leaves it: decided, and nothing done.
    let journal = Arc::new(Probe::default());
    let entry = |name: &str| (name.into(), "puppet".into(), cohort_job::Record(vec![7]));
    let verdict = Verdict::Abort {
        cause: Cause::Shutdown,
        disposition: KEEP,
    };
    journal
        .decide(&"run-1".into(), &Verdict::Commit, &[entry("a"), entry("b")])
        .unwrap();
    journal
        .decide(&"run-2".into(), &verdict, &[entry("c")])
        .unwrap();
    let calls: Vec<_> = restart(&journal, &["a", "b", "c"])
        .into_iter()
        .map(|(name, _, calls)| (name, calls))
        .collect();
    assert_eq!(
        calls,
        [
            ("a".into(), "commit-again clean dropped".to_owned()),
            ("b".into(), "commit-again clean dropped".to_owned()),
            (
                "c".into(),
                "abort-again(Shutdown,Keep) clean dropped".to_owned()
            ),
        ]
    );
}

#[test]
fn a_replayed_job_takes_nobodys_name_and_frees_nobodys() {
    let journal = Arc::new(Probe::default());
    let record = cohort_job::Record(vec![1]);
    let entry: Entry = ("disk".into(), "puppet".into(), record);
    journal
        .decide(&"old".into(), &Verdict::Commit, &[entry])
        .unwrap();
    let stage = over(&journal);
    let (job, puppet) = stage.launch(JobSpec::new("disk"));
    let recovered = stage
        .engine
        .recover(|_, _, _, _| Some(Box::new(Puppet::new().0) as Box<dyn ErasedDriver>))
        .unwrap();
    recovered.groups[0]
        .wait_until(deadline())
        .expect("replayed groups end");
    let found = stage.engine.job("disk").expect("its name is still its own");
    assert_eq!(found.id(), job.id());
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
}

/// Keeps whoever comes until it is opened, and remembers which threads came.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    threads: Mutex<HashSet<ThreadId>>,
}

impl Journal for Gate {
    fn decide(&self, _: &GroupName, _: &Verdict, _: &[Entry]) -> Result<(), JournalError> {
        self.threads.lock().unwrap().insert(thread::current().id());
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
        Ok(())
    }

    fn owed(&self) -> Result<Vec<Owed>, JournalError> {
        Ok(Vec::new())
    }

    fn done(&self, _: &Owed) -> Result<(), JournalError> {
        Ok(())
    }
}

/// Has nothing to do.
struct AtOnce;

impl Driver for AtOnce {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        Step::done()
    }
}

#[test]
fn any_number_of_groups_write_from_a_bounded_number_of_threads() {
    const GROUPS: usize = 1000;
    const MOST: usize = 256;
    let gate = Arc::new(Gate::default());
    let journal = Arc::clone(&gate) as Arc<dyn Journal>;
    let engine = Engine::builder().threads(2).journal(journal);
    let engine = engine.build().unwrap();
    let groups: Vec<_> = (0..GROUPS)
        .map(|number| {
            let mut group = engine.group("crowd");
            group
                .add(JobSpec::new(format!("j{number}")), AtOnce)
                .unwrap();
            group.launch()
        })
        .collect();
    while gate.threads.lock().unwrap().len() < MOST {
        thread::yield_now();
    }
    *gate.open.lock().unwrap() = true;
    gate.opened.notify_all();
    for group in &groups {
        assert_eq!(group.wait(), Some(Verdict::Commit));
    }
    assert_eq!(gate.threads.lock().unwrap().len(), MOST);
}
