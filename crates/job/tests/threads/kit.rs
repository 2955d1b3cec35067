//! A stage with an engine, and puppets that do in their steps what the test orders.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use cohort_job::{
    Abort, Asked, Cause, Commit, Context, Disposition, Driver, Engine, EngineBuilder, Error,
    JobHandle, JobId, JobSpec, News, Outcome, Record, Status, Step, Subscription, Update, Waker,
};

/// Longer than any of these tests takes on a busy machine: reached only by a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const KEEP: Disposition = Disposition::Keep;
pub(crate) const DISCARD: Disposition = Disposition::Discard;

#[allow(clippy::disallowed_methods, reason = "tests stand outside the engine")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn deadline() -> Instant {
    now() + PATIENCE
}

/// An engine, and everything it has said so far.
pub(crate) struct Stage {
    pub(crate) engine: Engine,
    subscription: Subscription,
    paths: BTreeMap<JobId, Vec<Status>>,
    news: Vec<News>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(Engine::builder().threads(2))
    }

    pub(crate) fn with(builder: EngineBuilder) -> Self {
        let engine = builder.build().expect("threads can be had");
        let subscription = engine.subscribe(1 << 20);
        Self {
            engine,
            subscription,
            paths: BTreeMap::new(),
            news: Vec::new(),
        }
    }

    /// A lone puppet job under way.
    pub(crate) fn launch(&self, spec: JobSpec) -> (JobHandle, Puppet) {
        let (driver, puppet) = Puppet::new();
        (
            self.engine.launch(spec, driver).expect("the name is free"),
            puppet,
        )
    }

    /// A group of so many puppets under way, named `j0`, `j1` and so on.
    pub(crate) fn group(
        &self,
        count: usize,
        spec: fn(JobSpec) -> JobSpec,
    ) -> (Vec<JobHandle>, Vec<Puppet>) {
        let mut txn = self.engine.group("group");
        let mut jobs = Vec::new();
        let mut puppets = Vec::new();
        for number in 0..count {
            let (driver, puppet) = Puppet::new();
            jobs.push(
                txn.add(spec(JobSpec::new(format!("j{number}"))), driver)
                    .expect("the name is free"),
            );
            puppets.push(puppet);
        }
        txn.launch();
        (jobs, puppets)
    }

    /// Waits until the job was in this status.
    pub(crate) fn until(&mut self, job: &JobHandle, status: Status) {
        self.hear(
            |paths, _| {
                paths
                    .get(&job.id())
                    .is_some_and(|path| path.contains(&status))
            },
            || format!("{status} of {:?}: {}", job.name(), job.why()),
        );
    }

    /// Waits until such news came.
    pub(crate) fn until_news(&mut self, what: &str, wanted: impl Fn(&News) -> bool) {
        self.until_news_times(1, what, wanted);
    }

    /// Waits until such news came so often since the beginning.
    pub(crate) fn until_news_times(
        &mut self,
        times: usize,
        what: &str,
        wanted: impl Fn(&News) -> bool,
    ) {
        let enough = |news: &[News]| news.iter().filter(|one| wanted(one)).count() >= times;
        self.hear(|_, news| enough(news), || what.to_owned());
    }

    fn hear(
        &mut self,
        enough: impl Fn(&BTreeMap<JobId, Vec<Status>>, &[News]) -> bool,
        what: impl Fn() -> String,
    ) {
        let end = deadline();
        while !enough(&self.paths, &self.news) {
            let left = end.saturating_duration_since(now());
            match self.subscription.recv_timeout(left) {
                Some(update) => self.note(update),
                None => panic!("never came to {}", what()),
            }
        }
    }

    fn note(&mut self, update: Update) {
        let Update::Notice(notice) = update else {
            panic!("there was room: {update:?}")
        };
        if let News::Status(subject, status) = &notice.news {
            self.paths.entry(subject.job).or_default().push(*status);
        }
        self.news.push(notice.news);
    }

    /// The statuses of a job that is over, in order.
    pub(crate) fn path(&mut self, job: &JobHandle) -> String {
        self.drain();
        let words: Vec<_> = self.paths[&job.id()]
            .iter()
            .map(|status| status.as_str())
            .collect();
        words.join(" ")
    }

    /// Everything said so far, without the statuses.
    pub(crate) fn news(&mut self) -> &[News] {
        self.drain();
        &self.news
    }

    fn drain(&mut self) {
        while let Some(update) = self.subscription.try_recv() {
            self.note(update);
        }
    }
}

type Task = Box<dyn FnOnce() + Send>;

/// What a puppet does in its next step.
pub(crate) enum Act {
    Again,
    Sleep(Duration),
    Ready,
    Progress(u64),
    Task(Task),
    Done,
    Fail(&'static str),
    Panic,
    /// Stays in its step until the other end is dropped or says so.
    Block(Receiver<()>),
}

/// The test's hands on one driver.
#[derive(Clone)]
pub(crate) struct Puppet {
    acts: Sender<Act>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waker: OnceLock<Waker>,
    asked: Mutex<Option<Asked>>,
    steps: std::sync::atomic::AtomicU64,
    calls: Mutex<Vec<String>>,
    refuses: AtomicBool,
    panics_in: Mutex<Option<&'static str>>,
    ends_when_asked: AtomicBool,
    in_hook: Mutex<Option<(&'static str, Receiver<()>)>>,
    record: Mutex<Vec<u8>>,
}

impl Puppet {
    /// A driver and the hands on it.
    pub(crate) fn new() -> (Doll, Self) {
        let (acts, orders) = channel();
        let shared = Arc::new(Shared::default());
        (
            Doll {
                orders,
                shared: Arc::clone(&shared),
            },
            Self { acts, shared },
        )
    }

    /// Has it do this, in order.
    pub(crate) fn act(&self, act: Act) {
        // A driver that is gone does nothing more, which some tests are about.
        let _ = self.acts.send(act);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.shared.waker.get() {
            waker.wake();
        }
    }

    /// Its prepare says no.
    pub(crate) fn refuses(&self) {
        self.shared.refuses.store(true, Ordering::SeqCst);
    }

    /// This hook panics.
    pub(crate) fn panics_in(&self, hook: &'static str) {
        *self.shared.panics_in.lock().unwrap() = Some(hook);
    }

    /// Its prepare leaves this record.
    pub(crate) fn records(&self, record: &[u8]) {
        *self.shared.record.lock().unwrap() = record.to_vec();
    }

    /// It blocks in this hook until the sender is dropped.
    pub(crate) fn blocks_in(&self, hook: &'static str) -> Sender<()> {
        let (hold, until) = channel();
        *self.shared.in_hook.lock().unwrap() = Some((hook, until));
        hold
    }

    /// It ends well as soon as it is asked to complete or to finish.
    pub(crate) fn ends_when_asked(&self) {
        self.shared.ends_when_asked.store(true, Ordering::SeqCst);
    }

    /// The hooks called so far, in order, and whether the driver is gone.
    pub(crate) fn calls(&self) -> String {
        self.shared.calls.lock().unwrap().join(" ")
    }

    pub(crate) fn steps(&self) -> u64 {
        self.shared.steps.load(Ordering::SeqCst)
    }

    pub(crate) fn asked(&self) -> Option<Asked> {
        *self.shared.asked.lock().unwrap()
    }
}

/// The driver itself.
pub(crate) struct Doll {
    orders: Receiver<Act>,
    shared: Arc<Shared>,
}

impl Doll {
    fn call(&self, hook: &'static str, text: String) {
        self.shared.calls.lock().unwrap().push(text);
        let blocks = self
            .shared
            .in_hook
            .lock()
            .unwrap()
            .take_if(|(name, _)| *name == hook);
        if let Some((_, until)) = blocks {
            let _ = until.recv();
        }
        let panics = *self.shared.panics_in.lock().unwrap() == Some(hook);
        if panics {
            std::panic::resume_unwind(Box::new(format!("{hook} went wrong")));
        }
    }
}

impl Driver for Doll {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        self.shared.steps.fetch_add(1, Ordering::SeqCst);
        self.shared.waker.get_or_init(|| cx.waker());
        *self.shared.asked.lock().unwrap() = Some(cx.asked());
        if cx.asked() != Asked::Run && self.shared.ends_when_asked.load(Ordering::SeqCst) {
            return Step::done();
        }
        match self.orders.try_recv() {
            Err(_) => return Step::Wait("waits for the test"),
            Ok(Act::Done) => return Step::done(),
            Ok(Act::Fail(why)) => return Step::failed(why),
            Ok(Act::Panic) => panics("the puppet broke"),
            Ok(Act::Sleep(time)) => return Step::Sleep(time),
            Ok(Act::Again) => {}
            Ok(Act::Ready) => cx.ready(),
            Ok(Act::Progress(units)) => cx.progress().advance(units),
            Ok(Act::Task(task)) => cx.spawn(task),
            Ok(Act::Block(until)) => {
                let _ = until.recv();
            }
        }
        Step::Again
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        self.call("prepare", "prepare".into());
        if self.shared.refuses.load(Ordering::SeqCst) {
            return Err("prepare says no".into());
        }
        Ok(Record(self.shared.record.lock().unwrap().clone()))
    }

    fn commit(&mut self, how: &Commit) {
        let short = if how.short { "-short" } else { "" };
        let replayed = if how.replayed { "-again" } else { "" };
        self.call("commit", format!("commit{short}{replayed}"));
    }

    fn abort(&mut self, why: &Abort) {
        let replayed = if why.replayed { "-again" } else { "" };
        self.call(
            "abort",
            format!("abort{replayed}({:?},{:?})", why.cause, why.disposition),
        );
    }

    fn clean(&mut self) {
        self.call("clean", "clean".into());
    }
}

impl Drop for Doll {
    fn drop(&mut self) {
        if let Ok(mut calls) = self.shared.calls.lock() {
            calls.push("dropped".into());
        }
    }
}

pub(crate) const COMMITTED: Outcome = Outcome::Committed { short: false };

pub(crate) fn failed(why: &str) -> Outcome {
    Outcome::Failed {
        error: Error::new(why),
        disposition: KEEP,
    }
}

pub(crate) fn cancelled(cause: Cause, disposition: Disposition) -> Outcome {
    Outcome::Cancelled { cause, disposition }
}

/// How the job ended, or a panic that says what it waits for.
pub(crate) fn outcome(job: &JobHandle) -> Outcome {
    job.wait_until(deadline())
        .unwrap_or_else(|| panic!("{:?} hangs: {}", job.name(), job.why()))
}

/// Waits until this is so: for what is no notice.
pub(crate) fn reaches(what: &str, so: impl Fn() -> bool) {
    let end = deadline();
    while !so() {
        assert!(now() < end, "never came to {what}");
        std::thread::yield_now();
    }
}

/// Panics on purpose: without the message of the panic hook, which would look like a failure.
pub(crate) fn panics(why: &'static str) -> ! {
    std::panic::resume_unwind(Box::new(why))
}
