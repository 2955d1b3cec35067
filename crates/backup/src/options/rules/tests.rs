//! Every rule, and every pair of mode and policy.

use std::time::Duration;

use super::*;
use crate::{Budget, OptionsBuilder};

use BitmapPolicy::{Always, Ask, Never, OnSuccess};
use SyncMode::{Bitmap, Full, Incremental, Top};

#[test]
fn each_mode_goes_with_the_policies_that_mean_something() {
    //                    on-success always ask never
    #[rustfmt::skip]
    let drawn = [
        (Full,           [ true,  true,  true,  false ]),
        (Top,            [ true,  true,  true,  false ]),
        (Incremental,    [ true,  false, false, false ]),
        (Bitmap,         [ true,  true,  true,  true  ]),
        (SyncMode::None, [ true,  true,  true,  false ]),
    ];
    for (mode, row) in drawn {
        for (policy, well) in [OnSuccess, Always, Ask, Never].into_iter().zip(row) {
            let built = Options::builder().mode(mode).policy(policy).build();
            assert_eq!(built.is_ok(), well, "{mode} with {policy}: {built:?}");
        }
    }
}

/// What is changed in valid options, and what is said then.
type Case = (fn(OptionsBuilder) -> OptionsBuilder, &'static str);

fn skip(attempts: u32, limit: u64) -> ErrorPolicy {
    let budget = Budget {
        attempts,
        ..Budget::default()
    };
    ErrorPolicy::Skip { budget, limit }
}

fn patient(total: u64) -> ErrorPolicy {
    let total = Duration::from_secs(total);
    ErrorPolicy::Ignore(Budget {
        total,
        ..Budget::default()
    })
}

#[test]
fn what_does_not_go_together_is_refused_in_this_order() {
    let cases: &[Case] = &[
        (
            |o| o.mode(Incremental).policy(Always).workers(0),
            "sync mode incremental means policy on-success, not always",
        ),
        (
            |o| o.mode(Full).policy(Never).cluster(1),
            "policy never leaves the bitmap as it is, and sync mode full",
        ),
        (
            |o| o.mode(SyncMode::None).policy(Never),
            "and sync mode none does not follow it",
        ),
        (|o| o.workers(0).cluster(1), "0 workers"),
        (|o| o.workers(257), "257 workers: between 1 and 256"),
        (|o| o.cluster(0).min_cluster(3), "cluster size 0"),
        (|o| o.cluster(2048), "cluster size 2048"),
        (|o| o.cluster(65_537), "cluster size 65537"),
        (|o| o.cluster(4 << 20), "cluster size 4194304"),
        (
            |o| o.min_cluster(100_000).writer_wait(Duration::ZERO),
            "minimum cluster size 100000",
        ),
        (
            |o| o.min_cluster(1 << 31),
            "minimum cluster size 2147483648",
        ),
        (|o| o.writer_wait(Duration::ZERO), "writer wait 0"),
        (
            |o| o.staging_memory(65_536).staging_file("/x", 1),
            "two clusters of 65536 bytes",
        ),
        (
            |o| {
                o.min_cluster(1 << 20)
                    .staging_memory(1 << 20)
                    .staging_file("/x", 1)
            },
            "two clusters of 1048576 bytes",
        ),
        (
            |o| o.on_target_error(skip(1, 1)),
            "skip is for reading the source",
        ),
        (
            |o| o.on_source_error(skip(0, 1)),
            "policy for the source allows 0 attempts",
        ),
        (
            |o| {
                o.on_target_error(ErrorPolicy::Stop(Budget {
                    attempts: 0,
                    ..Budget::NONE
                }))
            },
            "policy for the target allows 0 attempts",
        ),
        (
            |o| o.on_target_error(patient(86_401)),
            "policy for the target waits longer than a day",
        ),
        (
            |o| o.on_source_error(skip(1, 0)),
            "allows 0 clusters to be left out",
        ),
    ];
    for (change, told) in cases {
        let refused = change(Options::builder()).build().unwrap_err().to_string();
        assert!(refused.contains(told), "{refused:?} does not say {told:?}");
    }
    let edges: &[fn(OptionsBuilder) -> OptionsBuilder] = &[
        |o| o.workers(256).cluster(4096).min_cluster(16 << 20),
        |o| o.cluster(2 << 20).min_cluster(512),
        |o| o.staging_memory(131_072).staging_file("/x", 1),
        |o| {
            o.on_source_error(skip(1, 1))
                .on_target_error(patient(86_400))
        },
        |o| {
            o.on_source_error(ErrorPolicy::Stop(Budget::NONE))
                .on_target_error(ErrorPolicy::Enospc)
        },
    ];
    for change in edges {
        let built = change(Options::builder()).build();
        assert!(built.is_ok(), "{built:?}");
    }
}

#[test]
fn defaults_are_valid() {
    assert_eq!(Options::builder().build(), Ok(Options::default()));
}

#[test]
fn words_read_back_and_unknown_ones_name_the_choice() {
    for policy in [
        BitmapPolicy::OnSuccess,
        BitmapPolicy::Always,
        BitmapPolicy::Ask,
        BitmapPolicy::Never,
    ] {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    for mode in [
        SyncMode::Full,
        SyncMode::Top,
        SyncMode::Incremental,
        SyncMode::Bitmap,
        SyncMode::None,
    ] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    let error = "allways".parse::<BitmapPolicy>().unwrap_err().to_string();
    assert_eq!(
        error,
        "'allways' is not a bitmap policy: use one of on-success, always, ask, never"
    );
}
