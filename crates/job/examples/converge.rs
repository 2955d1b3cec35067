//! A job that converges: it follows a counter that others push on, is ready once it has caught up, and ends
//! when it is told to. Cancelled softly when it is ready, it would finish too, without the switch-over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cohort_job::{Asked, Commit, Context, Driver, Engine, JobSpec, News, Status, Step, Update};

/// Follows `theirs` with `ours`.
struct Follow {
    theirs: Arc<AtomicU64>,
    ours: u64,
}

impl Driver for Follow {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        let behind = self.theirs.load(Ordering::Relaxed) - self.ours;
        cx.progress().set_remaining(behind);
        if behind > 0 {
            self.ours += 1;
            cx.progress().advance(1);
            return Step::Again;
        }
        cx.ready();
        match cx.asked() {
            // Here is where a driver would stop the writers, for good, before it says done.
            Asked::Complete | Asked::Finish => Step::done(),
            Asked::Run => Step::Sleep(Duration::from_millis(1)),
        }
    }

    fn commit(&mut self, how: &Commit) {
        match how.short {
            true => println!("a copy of {}, and the original stays in use", self.ours),
            false => println!("switched over at {}", self.ours),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new()?;
    let news = engine.subscribe(100);
    let theirs = Arc::new(AtomicU64::new(1_000));
    let follow = Follow {
        theirs: Arc::clone(&theirs),
        ours: 0,
    };
    let mut group = engine.group("follow");
    let job = group.add(JobSpec::new("follow"), follow)?;

    // Not ready yet: a refusal says what would be accepted.
    if let Err(refused) = job.complete() {
        println!("{refused}");
    }
    group.launch();
    for update in news {
        let Update::Notice(notice) = update else {
            continue;
        };
        if let News::Status(_, status) = notice.news {
            println!("follow is {status}");
            if status == Status::Ready {
                println!("  500 more to follow, then it may complete");
                theirs.fetch_add(500, Ordering::Relaxed);
                job.complete()?;
            }
            if status == Status::Concluded {
                break;
            }
        }
    }
    println!("in the end: {} ({} done)", job.why(), job.progress().done);
    Ok(())
}
