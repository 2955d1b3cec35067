//! The demonstration holds, and every check of it can fail: each kind of evidence is tampered with once.

use cohort::demo::{Evidence, Verdict, play};

/// Plays the demonstration, letting `tamper` change the evidence.
fn play_with(mut tamper: impl FnMut(Evidence<'_>)) -> Verdict {
    let directory = tempfile::tempdir().expect("a directory");
    play(directory.path(), false, &mut tamper).expect("the play goes on")
}

/// Exactly the checks that look at the tampered evidence fail: `count` of them, and each says `words`.
#[track_caller]
fn is_found_out(verdict: &Verdict, count: usize, words: &str) {
    assert!(!verdict.holds());
    assert_eq!(verdict.failed.len(), count, "{:?}", verdict.failed);
    assert!(
        verdict.failed.iter().all(|what| what.contains(words)),
        "{:?}",
        verdict.failed
    );
}

#[test]
fn every_check_holds() {
    let verdict = play_with(|_| {});
    assert!(verdict.holds(), "{:?}", verdict.failed);
}

#[test]
fn one_wrong_byte_of_a_restored_disk_is_found_out() {
    let mut first = true;
    let verdict = play_with(|evidence| {
        if let Evidence::Restored(bytes) = evidence
            && std::mem::take(&mut first)
        {
            bytes[123_456] ^= 1;
        }
    });
    is_found_out(&verdict, 1, "inside the fence");
}

#[test]
fn a_point_of_a_failed_group_is_found_out() {
    let mut first = true;
    let verdict = play_with(|evidence| {
        if let Evidence::Points(points) = evidence
            && std::mem::take(&mut first)
        {
            points[1] += 1;
        }
    });
    is_found_out(&verdict, 1, "no disk of the group has a new point");
}

#[test]
fn a_forgotten_bit_is_found_out() {
    let mut first = true;
    let verdict = play_with(|evidence| {
        if let Evidence::Bits(bits) = evidence
            && !bits.is_empty()
            && std::mem::take(&mut first)
        {
            bits.clear();
        }
    });
    is_found_out(&verdict, 1, "is left with");
}

#[test]
fn a_file_left_by_a_forced_cancel_is_found_out() {
    let verdict = play_with(|evidence| {
        if let Evidence::Files(files) = evidence {
            files.push("root.9-0123456789abcdef.qcow2".into());
        }
    });
    is_found_out(&verdict, 1, "holds what it held before");
}

#[test]
fn a_partial_that_saves_nothing_is_found_out() {
    let verdict = play_with(|evidence| {
        if let Evidence::Copied(copied) = evidence {
            *copied = u64::MAX;
        }
    });
    is_found_out(&verdict, 1, "completed by copying");
}

#[test]
fn a_disk_backed_up_without_an_answer_is_found_out() {
    let verdict = play_with(|evidence| {
        if let Evidence::Refused(refused) = evidence {
            *refused = false;
        }
    });
    is_found_out(&verdict, 1, "waits for an answer");
}

#[test]
fn a_cancel_that_misses_a_peer_is_found_out() {
    let mut first = true;
    let verdict = play_with(|evidence| {
        if let Evidence::Reached(reached) = evidence
            && std::mem::take(&mut first)
        {
            *reached -= 1;
        }
    });
    is_found_out(&verdict, 1, "reached all three");
}
