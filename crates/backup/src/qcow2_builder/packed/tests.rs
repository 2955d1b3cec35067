//! Where blobs go, and that every kind of cluster comes back, in whatever order they come.

use flate2::{Decompress, FlushDecompress};

use super::super::space::ClusterSet;
use super::*;

fn layout() -> Layout {
    Layout::new(1 << 30, 64 << 10).unwrap()
}

#[test]
fn blobs_follow_each_other_and_the_rest_of_a_pack_goes_back() {
    let mut allocator = Allocator::new(ClusterSet::default(), 1);
    let mut pack = Pack::default();
    let base = 1 << 16;
    assert_eq!(pack.take(512, layout(), &mut allocator), base);
    assert_eq!(pack.take(65_536, layout(), &mut allocator), base + 512);
    pack.close(layout(), &mut allocator);
    // The header's cluster is free here, and of the pack what lies behind the two that were reached.
    assert_eq!(allocator.take(1), 0);
    assert_eq!(allocator.take(1), 3);
    let far = pack.take(2 << 20, layout(), &mut allocator);
    assert_eq!(pack.end - far, 2 << 20);
}

#[test]
fn a_place_lies_in_all_clusters_that_it_touches() {
    let at = |offset, sectors| {
        let place = Place { offset, sectors };
        place.clusters(layout()).collect::<Vec<_>>()
    };
    assert_eq!(at(65_536, 1), [1]);
    assert_eq!(at(65_536 * 2 - 512, 1), [1]);
    assert_eq!(at(65_536 * 2 - 512, 2), [1, 2]);
    assert_eq!(at(0, 128), [0]);
}

/// The one of [`kinds`] that shrinks only if the window is too wide.
const FAR: usize = 5;

/// Clusters that shrink to nothing, by half, hardly, and not at all.
fn kinds(size: usize, seed: u64) -> [Vec<u8>; 6] {
    let mut state = seed;
    let mut noise = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let incompressible: Vec<u8> = (0..size).map(|_| noise()).collect();
    let text = b"one point, one verdict; the fence is the instant of the group. "
        .iter()
        .cycle();
    let text: Vec<u8> = text.take(size).map(|byte| byte ^ noise() >> 7).collect();
    let mut half = incompressible.clone();
    half[size / 2..].fill(7);
    let mut hardly = incompressible.clone();
    hardly[size - size / 64 - SECTOR / 2..].fill(0);
    // What repeats does so from farther away than the window reaches: to a reader it is noise.
    let far: Vec<u8> = incompressible[..size.min(5000)].to_vec();
    let far = far.into_iter().cycle().take(size).collect();
    [vec![0; size], incompressible, text, half, hardly, far]
}

/// Inflates piece by piece, as a reader does that keeps a window of what came before. This one keeps 32 KiB whatever it is
/// told (zlib-rs 0.6.8), so it does not notice what reaches back too far.
fn inflated(packed: &[u8], size: usize) -> Vec<u8> {
    // Said anew: it is the readers' window, not ours.
    let mut inflate = Decompress::new_with_window_bits(false, 12);
    let (mut whole, mut piece) = (Vec::new(), [0; 700]);
    while whole.len() < size {
        let (read, wrote) = (inflate.total_in() as usize, inflate.total_out());
        let now = piece.len().min(size - whole.len());
        inflate
            .decompress(&packed[read..], &mut piece[..now], FlushDecompress::None)
            .unwrap();
        let wrote = (inflate.total_out() - wrote) as usize;
        assert!(wrote > 0, "it ends early");
        whole.extend_from_slice(&piece[..wrote]);
    }
    whole
}

#[test]
fn every_kind_of_cluster_comes_back_whatever_came_before() {
    for bits in 9..=21 {
        let size = 1 << bits;
        let packer = Packer::default();
        // Forwards and backwards, so that what does not shrink comes before and after what does.
        let rounds = ((1 << 21) / size).clamp(2, 60);
        for round in 0..rounds {
            let kinds = kinds(size, round as u64);
            for at in 0..kinds.len() {
                let at = if round % 2 == 0 {
                    at
                } else {
                    kinds.len() - 1 - at
                };
                let cluster = &kinds[at];
                let Some(packed) = packer.pack(cluster, size) else {
                    assert!(size == SECTOR || *cluster != kinds[0], "zeroes shrink");
                    continue;
                };
                assert!(*cluster != kinds[FAR], "{size}: readers do not remember it");
                assert!(packed.len() < size && packed.len().is_multiple_of(SECTOR));
                assert!(inflated(&packed, size) == *cluster, "{size}, {round}, {at}");
            }
        }
    }
}

#[test]
fn what_does_not_shrink_is_left_alone_and_an_end_is_filled_up() {
    let packer = Packer::default();
    let [zeroes, noise, _, half, ..] = kinds(65_536, 1);
    assert!(packer.pack(&noise, 65_536).is_none());
    let packed = packer.pack(&half, 65_536).unwrap();
    assert!(packed.len() < 40_000);
    let packed = packer.pack(&noise[..1000], 65_536).unwrap();
    let whole = [&noise[..1000], &zeroes[1000..]].concat();
    assert!(packed.len() < 2000 && inflated(&packed, 65_536) == whole);
}
