//! Three jobs that finish together: one fails, and each is told why.

use cohort_job::{Abort, Context, Driver, Engine, JobSpec, Step, Verdict};

/// Counts to `goal`, or gives up on the way.
struct Count {
    goal: u64,
    fails_at: Option<u64>,
}

impl Driver for Count {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        let done = cx.progress().snapshot().done;
        if self.fails_at == Some(done) {
            return Step::failed(format!("lost count at {done}"));
        }
        if done == self.goal {
            return Step::done();
        }
        cx.progress().set_remaining(self.goal - done);
        cx.progress().advance(1);
        Step::Again
    }

    fn abort(&mut self, why: &Abort) {
        // Keep: what is worth something may stay. Discard: leave no trace.
        println!(
            "  counting to {} is undone ({:?})",
            self.goal, why.disposition
        );
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new()?;
    let mut group = engine.group("counting");
    let mut jobs = Vec::new();
    for (name, goal, fails_at) in [
        ("short", 10, None),
        ("unlucky", 1_000, Some(777)),
        ("long", 1_000_000, None),
    ] {
        jobs.push(group.add(JobSpec::new(name), Count { goal, fails_at })?);
    }
    let verdict = group.launch().wait().ok_or("the verdict is in doubt")?;

    match verdict {
        Verdict::Commit => println!("all of them count:"),
        Verdict::Abort { .. } => println!("none of them counts:"),
    }
    for job in jobs {
        let name = job.name().unwrap_or_else(|| "?".into());
        println!("  {name:8} {:>8} done  {}", job.progress().done, job.why());
    }
    Ok(())
}
