//! The exhaustive explorer: every order of requests and workers' reports, from every state reached.
//!
//! Whole for one and two members; three members in a few smaller models. `COHORT_MODEL=full` (as `just
//! model` sets it, in the release profile) adds the larger ones. Every rule that an onlooker can check is
//! checked after every move (`rules.rs`); from every state fair workers, and users who give what the
//! members say they wait for, reach the end (`search.rs`).

mod model;
mod moves;
mod rules;
mod search;
mod world;

use std::time::Instant;

use model::{AUTO, BARE, MANUAL, Model};

/// Explores a model; prints how much that was, and its bounds.
#[allow(clippy::disallowed_methods, reason = "how long it took is printed")]
fn check(model: &Model) {
    let begun = Instant::now();
    match search::explore(model) {
        Ok(count) => println!(
            "{:<28} {:>8} states {:>9} transitions {:>6.1} s  ({})",
            model.name,
            count.states,
            count.transitions,
            begun.elapsed().as_secs_f64(),
            model.bounds()
        ),
        Err(found) => panic!("\n{}\n", found.trace),
    }
}

/// `COHORT_MODEL=full`: minutes instead of seconds.
fn full() -> bool {
    std::env::var_os("COHORT_MODEL").is_some_and(|value| value == "full")
}

#[test]
fn one_member_whole() {
    for (name, spec) in [
        ("one, automatic", AUTO),
        ("one, by hand", MANUAL),
        ("one, bare", BARE),
    ] {
        check(&Model {
            converge: 1,
            ..Model::full(name, &[spec])
        });
    }
    // What the other walks leave out does not matter: here nothing is left out.
    check(&Model {
        exact: true,
        ..Model::full("one, exact", &[MANUAL])
    });
    // Two tasks, so that one ends while another is in flight.
    check(&Model {
        tasks: 2,
        ..Model::full("one, two tasks", &[AUTO])
    });
    check(&Model {
        replay: true,
        ..Model::full("one, replayed", &[MANUAL])
    });
}

#[test]
fn two_members_whole() {
    check(&Model {
        converge: 1,
        ..Model::full("two, one converges", &[AUTO, AUTO])
    });
    check(&Model {
        converge: 3,
        ..Model::full("two, both converge", &[AUTO, AUTO])
    });
    check(&Model {
        converge: 2,
        ..Model::full("two, one by hand", &[MANUAL, AUTO])
    });
    check(&Model {
        more: 1,
        ..Model::full("two, one added late", &[AUTO])
    });
    check(&Model {
        replay: true,
        ..Model::full("two, replayed", &[AUTO, MANUAL])
    });
    // Turns in which both are visited.
    check(&Model {
        turn: 8,
        converge: 1,
        ..Model::full("two, in one turn", &[AUTO, AUTO])
    });
}

#[test]
fn three_members_of_fewer_talents() {
    let three = [AUTO, AUTO, AUTO];
    check(&Model {
        journal_fails: true,
        again: true,
        ..Model::plain("three, journal", &three)
    });
    check(&Model {
        pause: true,
        converge: 2,
        ..Model::plain("three, paused", &three)
    });
    check(&Model {
        tasks: 1,
        panics: true,
        ..Model::plain("three, tasks", &three)
    });
    check(&Model {
        stuck: true,
        ..Model::plain("three, stuck", &three)
    });
    let mixed = [AUTO, MANUAL, BARE];
    check(&Model {
        launched: false,
        cancel_all: true,
        ..Model::plain("three, mixed", &mixed)
    });
}

#[test]
fn many_members_at_random() {
    let walks = if full() { 20_000 } else { 200 };
    let mut members = Vec::new();
    for seed in 0..walks {
        // Up to eight of each kind in every order, and turns that end in the middle.
        let kinds = [AUTO, BARE, MANUAL];
        members.clear();
        members.extend((0..2 + seed % 7).map(|at| kinds[((seed >> at) % 3) as usize]));
        let turn = 1 + (seed % 5) as u32;
        let model = Model {
            converge: 0b1010_1010,
            turn,
            more: 1,
            tasks: 2,
            ..Model::full("many", &members)
        };
        if let Err(found) = search::wander(&model, seed, 600) {
            panic!("\n{}\n", found.trace);
        }
    }
    println!("{walks} walks of 600 moves through groups of 2 to 9");
}

#[test]
fn three_members_whole() {
    if !full() {
        println!("three members whole: skipped; COHORT_MODEL=full walks them (in minutes)");
        return;
    }
    check(&Model {
        converge: 1,
        ..Model::full("three, one converges", &[AUTO, AUTO, AUTO])
    });
    check(&Model {
        converge: 2,
        ..Model::full("three, mixed", &[AUTO, MANUAL, BARE])
    });
    let four = [AUTO, AUTO, AUTO, AUTO];
    check(&Model {
        converge: 1,
        pause: true,
        ..Model::plain("four, paused", &four)
    });
}
