//! What a group of sixteen served disks asks of its files from the fence to the end, counted and named: one sync more
//! fails the test. `docs/performance.md` has the same table.

use std::collections::BTreeMap;

use cohort_tests::crash::Phase::{Cleaning, Closing, Deciding, Preparing, Running, Starting};
use cohort_tests::crash::{NAMES, Phase, Script};

use crate::play::play;

const DISKS: usize = NAMES.len();

/// Every sync of a group that commits and of the closing after it: what is synced, in which phase, how often, and for
/// what.
#[rustfmt::skip]
const OWN: [(&str, Phase, usize, &str); 6] = [
    ("target.sync",    Running,   2 * DISKS, "data and tables, then the header that shows them"),
    ("digests.sync",   Running,   DISKS,     "the file of each target's digests"),
    ("directory.sync", Preparing, 1,         "the names of all targets and digests"),
    ("catalogue.sync", Deciding,  2,         "the verdict's transaction"),
    ("catalogue.sync", Cleaning,  2,         "the note that every hook ran"),
    ("catalogue.sync", Closing,   4,         "the file is cut to what it holds, and marked as whole"),
];

/// The same of disks and stores, where the guests' writes decide in which phase, as they come when their threads run.
#[rustfmt::skip]
const WITH_GUESTS: [(&str, usize, &str); 2] = [
    ("disk.sync",  3 * DISKS, "its guest's own, one before its target's, and one when it is closed"),
    ("store.sync", 9 * DISKS, "two end the set of before the fence, each of two writes of the guest has one, one when sets are given back, \
                               and four when it is closed"),
];

#[test]
fn a_verdict_on_sixteen_disks_costs_the_syncs_that_are_named() {
    let policies = ["on-success"; DISKS].join(",");
    let script: Script = format!("{policies}/success,success").parse().unwrap();
    let played = play(&script, None);
    assert!(played.succeeded, "{}", played.said);
    let (mut counted, mut of_disks, mut grown) = (BTreeMap::new(), BTreeMap::new(), 0);
    for reached in &played.log {
        let (name, phase) = (&*reached.point.name, reached.point.phase);
        grown += usize::from((name, phase) == ("catalogue.cut", Deciding));
        match name {
            _ if phase == Starting || !name.ends_with(".sync") => {}
            "disk.sync" | "store.sync" => *of_disks.entry(name).or_insert(0) += 1,
            _ => *counted.entry((name, phase)).or_insert(0) += 1,
        }
    }
    let law = OWN.map(|(name, phase, count, _)| ((name, phase), count));
    let mut law = BTreeMap::from(law);
    // Where the file has to grow, its new length is durable before the rows are written.
    assert!(grown <= 1, "the catalogue grew {grown} times");
    *law.entry(("catalogue.sync", Deciding)).or_default() += grown;
    assert_eq!(counted, law);
    for (name, most, _) in WITH_GUESTS {
        let count = of_disks.get(name).copied().unwrap_or(0);
        assert!(count <= most, "{count} of {name}, more than {most}");
    }
}
