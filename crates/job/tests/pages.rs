//! The tables in the project's pages are those of the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cohort_job::core::{Action, Core, Event, Order, Report, Request};
use cohort_job::{Cause, Disposition, Error, Hooks, Phase, Spec, Status, Verb, Verdict};

/// One line of a table.
fn line(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<String> = cells.into_iter().collect();
    format!("| {} |\n", cells.join(" | "))
}

/// A table with a column for each of `columns`: a head, a rule, and one row for each name, marked.
fn grid<T: PartialEq>(
    corner: &str,
    columns: &[T],
    told: impl Fn(&T) -> String,
    rows: impl Iterator<Item = (String, Vec<T>)>,
) -> String {
    let mut table = line(
        [corner.to_owned()]
            .into_iter()
            .chain(columns.iter().map(told)),
    );
    table += &format!("|{}\n", "---|".repeat(1 + columns.len()));
    for (name, marked) in rows {
        let cell = |column: &T| if marked.contains(column) { "x" } else { "" }.to_owned();
        table += &line([name].into_iter().chain(columns.iter().map(cell)));
    }
    table
}

/// Compares what stands between `<!-- name: … -->` and `<!-- end -->` with `expected`.
fn assert_printed(page: &str, name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(page);
    let text = std::fs::read_to_string(&path).expect("the page is in the tree");
    let (_, rest) = text
        .split_once(&format!("<!-- {name}: printed from the code -->\n"))
        .expect("a mark");
    let (printed, _) = rest.split_once("<!-- end -->").expect("an end mark");
    assert!(
        printed == expected,
        "docs/{page}, {name}: the code says\n{expected}"
    );
}

#[test]
fn the_page_tells_which_status_may_follow_which() {
    let rows = Status::ALL
        .into_iter()
        .map(|status| (status.to_string(), status.leads_to().to_vec()));
    let table = grid("from \\ to", &Status::ALL, Status::to_string, rows);
    assert_printed("states.md", "leads-to", &table);
}

#[test]
fn the_page_tells_which_verb_is_accepted_where() {
    let rows = Verb::ALL
        .into_iter()
        .map(|verb| (verb.to_string(), verb.accepted_in().to_vec()));
    let table = grid("verb", &Status::ALL, Status::to_string, rows);
    assert_printed("states.md", "accepted-in", &table);
}

#[test]
fn the_page_tells_which_phase_may_follow_which() {
    let rows = Phase::ALL
        .into_iter()
        .map(|phase| (format!("{phase:?}"), phase.leads_to().to_vec()));
    let table = grid(
        "from \\ to",
        &Phase::ALL,
        |phase| format!("{phase:?}"),
        rows,
    );
    assert_printed("completion.md", "phases", &table);
}

#[test]
fn the_page_tells_what_a_phase_runs_and_whether_it_can_be_cancelled() {
    let seen = Lives::led();
    let mut table = line(["phase", "what it has run", "a cancel"].map(str::to_owned));
    table += "|---|---|---|\n";
    for phase in Phase::ALL {
        let orders = seen.orders.get(&phase).into_iter().flatten();
        let orders: Vec<String> = orders
            .map(|order| format!("{order:?}").to_lowercase())
            .collect();
        let cancel = match seen.cancels[&phase] {
            true => "is accepted",
            false => "is refused",
        };
        table += &line([format!("{phase:?}"), orders.join(", "), cancel.to_owned()]);
    }
    assert_printed("completion.md", "phase-work", &table);
}

#[test]
fn every_phase_that_may_follow_does_somewhere() {
    let edges: BTreeSet<(Phase, Phase)> = Phase::ALL
        .into_iter()
        .flat_map(|from| from.leads_to().iter().map(move |to| (from, *to)))
        .collect();
    assert_eq!(Lives::led().edges, edges);
}

/// What groups of two were seen to do, each of which was led through one life.
#[derive(Debug, Default)]
struct Lives {
    edges: BTreeSet<(Phase, Phase)>,
    orders: BTreeMap<Phase, BTreeSet<Order>>,
    cancels: BTreeMap<Phase, bool>,
}

impl Lives {
    /// One that commits, two that stop (at work, and in prepare), and two that a restart finds decided.
    fn led() -> Self {
        let abort = Verdict::Abort {
            cause: Cause::User,
            disposition: Disposition::Keep,
        };
        let mut lives = Self::default();
        lives.lead(&[Request::Launch], None);
        lives.lead(&[Request::Launch], Some(Order::Step));
        lives.lead(&[Request::Launch], Some(Order::Prepare));
        lives.lead(&[Request::Replay(Verdict::Commit)], None);
        lives.lead(&[Request::Replay(abort)], None);
        lives
    }

    /// Makes these requests, and answers every order until the group ends; the first of kind `fails` fails.
    fn lead(&mut self, requests: &[Request], mut fails: Option<Order>) {
        let spec = Spec {
            hooks: Hooks::ALL,
            ..Spec::default()
        };
        // Turns of one member, so that nothing happens unseen.
        let mut core = Core::with_turn(1);
        let mut out = Vec::new();
        let add = Request::Add { count: 2, spec };
        for request in [&add].into_iter().chain(requests) {
            let before = core.phase();
            core.apply(request.clone(), &mut out)
                .expect("an open group");
            self.look(before, &core, &out);
        }
        let mut at = 0;
        while at < out.len() {
            let action = out[at].clone();
            at += 1;
            for event in answers(&action, &mut fails) {
                let (before, ordered) = (core.phase(), out.len());
                core.handle(event, &mut out);
                self.look(before, &core, &out[ordered..]);
            }
        }
        assert_eq!(core.phase(), Phase::Done);
    }

    fn look(&mut self, before: Phase, core: &Core, out: &[Action]) {
        let phase = core.phase();
        if before != phase {
            self.edges.insert((before, phase));
        }
        for action in out {
            if let Action::Run { order, .. } = action {
                self.orders.entry(phase).or_default().insert(*order);
            }
        }
        let cancel = Request::CancelAll(Cause::User, Disposition::Discard);
        let accepted = core.clone().apply(cancel, &mut Vec::new()).is_ok();
        let told = *self.cancels.entry(phase).or_insert(accepted);
        assert_eq!(told, accepted, "a cancel in {phase:?}, at another moment");
    }
}

/// What a worker and a journal that do what they are told answer, member by member.
fn answers(action: &Action, fails: &mut Option<Order>) -> Vec<Event> {
    match action {
        Action::Run { order, members } => {
            let mut events = Vec::new();
            for member in members.clone() {
                let failed = fails.take_if(|wanted| wanted == order).is_some();
                let report = if failed {
                    Report::Failed(Error::new("told to"))
                } else {
                    Report::Done
                };
                events.push(Event::Ran {
                    order: *order,
                    members: member..member + 1,
                    report,
                });
            }
            events
        }
        Action::Decide(_) => vec![Event::Decided(Ok(()))],
        Action::Continue => vec![Event::Continue],
        Action::Hold(_)
        | Action::Release(_)
        | Action::Stop(_)
        | Action::Ask(..)
        | Action::WakeAt(..)
        | Action::Notify(_)
        | Action::Ended { .. } => Vec::new(),
    }
}
