# Short recipes; `just --list` names them. CI runs `check`, and more: see `.ci/run`.

# Everything a change must pass.
check: fmt lint doc deny test

test:
    cargo test --workspace

fmt:
    cargo fmt --all --check

lint:
    cargo clippy --workspace --all-targets -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# The book of `docs/`, in `target/book`; needs mdbook.
book:
    mdbook build

# The published crates as they would be published, each built from its package and from those of the others: minutes. Only
# what is no crate of ours comes from the registry.
package:
    cargo package --workspace --exclude cohort-tests --exclude benches

# The Debian package of what is committed, in `target/debian`; see docs/install.md.
deb:
    packaging/build-deb

deny:
    cargo deny check licenses bans sources

# Every order of events for one, two and three jobs; prints states and bounds.
model:
    COHORT_MODEL=full cargo test --release -p cohort-job --test explorer -- --nocapture

# Groups of jobs on a virtual clock, by the hundred: prints counts, and the cells met and never met.
# COHORT_SIM_SEEDS=N for another number of seeds, COHORT_SIM_FIRST=N to begin at one that failed. Then whole backups, one
# request at a time: COHORT_POINTS_SEEDS and COHORT_POINTS_FIRST.
sim:
    COHORT_SIM_SEEDS=${COHORT_SIM_SEEDS:-20000} cargo test --release -p cohort-tests --test simulator -- --nocapture
    COHORT_POINTS_SEEDS=${COHORT_POINTS_SEEDS:-3000} cargo test --release -p cohort-tests --test points -- --nocapture

# Every interleaving of the few lines that two threads touch; prints how many were walked.
loom:
    RUSTFLAGS="--cfg loom" cargo test --release --target-dir target/loom -p cohort-job -p cohort-bitmap -p cohort-block -p cohort-journal --lib -- --nocapture --test-threads 1 loom_

# Broken rules, one patch each: whether the check that each names notices. Minutes; a word chooses some.
mutants *words:
    cargo run --quiet -p cohort-tests --bin mutants -- {{words}}

# Every fuzz target, that many seconds each, beginning at its committed corpus; what it adds goes to `target/fuzz`. Needs
# cargo-fuzz and the nightly toolchain. A find goes into `fuzz/corpus/TARGET`, which `cargo test` replays.
fuzz seconds:
    #!/usr/bin/env bash
    set -euo pipefail
    for target in $(cargo +nightly fuzz list); do
        mkdir -p "target/fuzz/$target"
        cargo +nightly fuzz run "$target" "target/fuzz/$target" "fuzz/corpus/$target" -- \
            -max_total_time={{seconds}} -print_final_stats=1
    done

# Kills, losses of power, and files that fail: a quarter of an hour or more on two processors, once it is built. Ten thousand kills
# of a writer, a hundred of whole runs, a thousand of a daemon under load; every loss at every moment of twenty sessions of
# a store, and of 180 sessions of store, targets and catalogue together, which are a hundred thousand; and kills and faults
# at every durable operation of a group that continues partials and of the program's commands, and at points of every mix.
torture:
    COHORT_TORTURE_RUN_KILLS=${COHORT_TORTURE_RUN_KILLS:-100} cargo test --release -p cohort-backup --test runs -- --nocapture stored_kills::whatever
    COHORT_TORTURE_KILLS=${COHORT_TORTURE_KILLS:-10000} cargo test --release -p cohort-tests --test tracking_kills -- --nocapture
    COHORT_TORTURE_DAEMON=${COHORT_TORTURE_DAEMON:-1000} cargo test --release -p cohort --test serve_kills -- --nocapture
    COHORT_TORTURE_SESSIONS=${COHORT_TORTURE_SESSIONS:-20} cargo test --release -p cohort-tests --test tracking_power_loss -- --nocapture
    COHORT_TORTURE_BACKUPS=${COHORT_TORTURE_BACKUPS:-180} cargo test --release -p cohort-tests --test backup_power_loss -- --nocapture
    COHORT_TORTURE_CRASH=${COHORT_TORTURE_CRASH:-1} cargo test --release -p cohort-tests --test crash -- --nocapture

# Side-by-side figures: reported, never gated.
bench:
    cargo bench -p benches

# Copies and live writers side by side with peers; COHORT_BENCH_MIB for another size of the disk.
compare:
    cargo bench -p benches --bench copy
    cargo bench -p benches --bench live
