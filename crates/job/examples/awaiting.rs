//! An async program that awaits a group. The futures are std's and need no runtime: any executor will do,
//! and this one is twenty lines.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use cohort_job::{Engine, JobHandle, JobSpec, Verdict, for_each};

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Awaits one job, which may be one of many that are awaited at the same time.
async fn report(job: JobHandle) {
    let name = job.name().map_or("?".into(), |name| name.to_string());
    println!("{name}: now {}", job.why());
    (&job).into_future().await;
    println!("{name}: {}, {} numbers", job.why(), job.progress().done);
}

async fn run(engine: Engine) -> Result<(), Box<dyn std::error::Error>> {
    let mut group = engine.group("sums");
    let mut jobs = Vec::new();
    for (name, count) in [("small", 1_000_u64), ("large", 100_000)] {
        let work = for_each(0..count, |n, _| {
            let square = n.checked_mul(n);
            square.map(drop).ok_or("too large".into())
        });
        jobs.push(group.add(JobSpec::new(name), work)?);
    }
    let group = group.launch();
    for job in jobs {
        report(job).await;
    }
    match group.await {
        Some(Verdict::Commit) => {
            println!("the group: both count");
            Ok(())
        }
        Some(Verdict::Abort { .. }) => Err("nothing was committed".into()),
        None => Err("in doubt: the journal failed".into()),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    block_on(run(Engine::new()?))
}
