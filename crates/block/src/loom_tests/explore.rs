//! Walks a model, and tells which outcomes it reached.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// Walks every interleaving, with at most so many preemptions each; fails if an outcome that the
/// model should reach was never seen.
pub(super) fn explore(
    seen: &Arc<Seen>,
    preemptions: Option<usize>,
    model: impl Fn() + Send + Sync + 'static,
) {
    let walked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&walked);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        model();
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    let name = std::thread::current().name().unwrap_or("model").to_owned();
    let walked = walked.load(std::sync::atomic::Ordering::Relaxed);
    println!("{name}: {walked} interleavings, {}", seen.told());
    assert!(seen.all(), "{}", seen.told());
}

/// Which outcomes were reached, over all interleavings.
pub(super) struct Seen {
    names: Vec<&'static str>,
    counts: Vec<AtomicUsize>,
}

impl Seen {
    pub(super) fn new<const N: usize>(names: [&'static str; N]) -> Arc<Self> {
        Arc::new(Self {
            names: names.into(),
            counts: names.map(|_| AtomicUsize::new(0)).into(),
        })
    }

    pub(super) fn note(&self, outcome: usize) {
        self.counts[outcome].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    pub(super) fn count(&self, outcome: usize) -> usize {
        self.counts[outcome].load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn all(&self) -> bool {
        (0..self.names.len()).all(|outcome| self.count(outcome) > 0)
    }

    pub(super) fn told(&self) -> String {
        let told = |(outcome, name)| format!("{name} {}", self.count(outcome));
        let told: Vec<_> = self.names.iter().enumerate().map(told).collect();
        told.join(", ")
    }
}
