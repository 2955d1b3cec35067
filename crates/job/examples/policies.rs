//! A group with policies: when it is undone, each job looks at the disposition and at its own policy.
//!
//! Run it as it is, and with the word `force`, which discards everything.

use std::time::Duration;

use cohort_job::{Abort, Commit, Context, Disposition, Driver, Engine, JobSpec, Step, Verdict};

/// What a job does with a half of its work.
enum Policy {
    /// It is worth something: the next run can go on from there.
    KeepHalf,
    /// It is worth nothing.
    AllOrNothing,
}

/// Collects pages of a book, so many of so many.
struct Collect {
    book: &'static str,
    policy: Policy,
    pages: u32,
    of: u32,
}

impl Driver for Collect {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        match self.pages == self.of {
            true if self.of == 13 => Step::failed("page 13 is torn out"),
            true => Step::done(),
            false => {
                self.pages += 1;
                cx.progress().advance(1);
                Step::Sleep(Duration::from_millis(1))
            }
        }
    }

    fn commit(&mut self, _: &Commit) {
        println!("{}: bound, all {} pages", self.book, self.pages);
    }

    fn abort(&mut self, why: &Abort) {
        let kept = match (why.disposition, &self.policy) {
            (Disposition::Keep, Policy::KeepHalf) => self.pages,
            (Disposition::Keep, Policy::AllOrNothing) | (Disposition::Discard, _) => 0,
        };
        let Self { book, pages, .. } = self;
        println!("{book}: collected {pages} pages, keeps {kept}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new()?;
    let mut group = engine.group("library");
    let mut jobs = Vec::new();
    for (book, policy, of) in [
        ("atlas", Policy::KeepHalf, 40),
        ("bible", Policy::AllOrNothing, 50),
        ("comic", Policy::KeepHalf, 13),
    ] {
        #[rustfmt::skip]
        let collect = Collect { book, policy, pages: 0, of };
        jobs.push(group.add(JobSpec::new(book), collect)?);
    }
    let group = group.launch();
    if std::env::args().any(|word| word == "force") {
        while jobs[0].progress().done < 5 {
            std::thread::yield_now();
        }
        // One is enough: the whole group settles by the same disposition.
        jobs[0].cancel(Disposition::Discard)?;
    }
    let bound = group.wait() == Some(Verdict::Commit);
    println!("the books are bound: {bound}");
    for job in &jobs {
        println!("  {}", job.why());
    }
    Ok(())
}
