//! An ordinary function that blocks, as a job, with its progress in the terminal.

// Forbidden inside the engine; a program may look at the clock.
#![allow(clippy::disallowed_methods)]

use std::io::Write;
use std::time::{Duration, Instant};

use cohort_job::{Engine, Error, JobSpec, Reins, Remaining, blocking};

const CHUNK: u64 = 64 << 10;

/// Counts the zero bytes in so many chunks. Knows of the engine only that it should look at its reins.
fn count_zeroes(chunks: u64, reins: &Reins) -> Result<u64, Error> {
    let mut zeroes = 0;
    reins.progress().set_remaining(chunks * CHUNK);
    for number in 0..chunks {
        // Here it is paused, slowed down to its speed limit, and stopped.
        reins.pay(CHUNK)?;
        let chunk = vec![number as u8; CHUNK as usize];
        zeroes += chunk.iter().filter(|byte| **byte == 0).count() as u64;
        reins.progress().advance(CHUNK);
    }
    Ok(zeroes)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new()?;
    let (tell, result) = std::sync::mpsc::channel();
    let work = blocking(move |reins| {
        let zeroes = count_zeroes(1_000, reins)?;
        // Whoever waits for the result may have gone.
        let _ = tell.send(zeroes);
        Ok(())
    });
    // 20 MiB a second, so that there is something to see.
    let job = engine.launch(JobSpec::new("count").speed(20 << 20), work)?;

    let mut meter = job.meter();
    while job
        .wait_until(Instant::now() + Duration::from_millis(100))
        .is_none()
    {
        let now = meter.read();
        let left = match now.remaining {
            Remaining::Between(soonest, latest) => {
                format!(
                    "{:.1} to {:.1} s more",
                    soonest.as_secs_f64(),
                    latest.as_secs_f64()
                )
            }
            Remaining::Stalled => job.why(),
            Remaining::Unknown => "too early to say how long".into(),
        };
        print!(
            "\r{:>3} % at {:.1} MiB/s, {left:30}",
            100 * now.progress.done / now.progress.total.max(1),
            now.rate / f64::from(1 << 20),
        );
        std::io::stdout().flush()?;
    }
    println!("\n{}: {} zeroes", job.why(), result.recv()?);
    Ok(())
}
