//! Digests of what an image holds, cluster by cluster: what `verify` and `audit` believe.
//!
//! Every image has digests of the clusters that it holds *itself*; what it leaves to the files it lies on, their digests
//! speak of. So an increment's digests cost what its data costs, and together those of a chain cover the whole disk.
//!
//! A digest is the first 16 bytes of BLAKE3 over the cluster, filled up with zeroes at the end of the disk. BLAKE3,
//! because it reads at several bytes a cycle in one thread and so hides behind the copy it is computed in; a checksum
//! would be as fast, but bits that somebody changed on purpose must not pass either. Sixteen bytes, because finding two
//! clusters with one digest by chance takes 2^64 clusters, and 0.02 % of the data is what all this may cost: 1 GiB for a
//! full copy of 4 TiB.
//!
//! While a run copies, [`Recording`] keeps digests in a nameless file in the backup directory, so that no disk is too
//! large for memory; at the end [`Recording::write`] packs them into a file of their own, which is written once, made
//! durable before the verdict that names it, and never changed. The catalogue has the BLAKE3 digest of that file.
//! `docs/format.md` tells its bytes.

mod recording;
mod sidecar;
#[cfg(test)]
mod tests;

pub(crate) use recording::Recording;
pub(crate) use sidecar::{Run, Sidecar, SidecarError};

/// Bytes of a stored digest.
const LENGTH: u64 = 16;

/// The digest of one cluster. Never all zeroes, which means that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest([u8; LENGTH as usize]);

impl Digest {
    /// The digest of a cluster of `cluster` bytes that begins with `data` and goes on with zeroes.
    pub(crate) fn of(data: &[u8], cluster: u64) -> Self {
        /// Filled up in pieces of this.
        const ZEROES: [u8; 4096] = [0; 4096];
        let mut missing = cluster.saturating_sub(data.len() as u64);
        let hash = if missing == 0 {
            blake3::hash(data)
        } else {
            let mut hasher = blake3::Hasher::new();
            hasher.update(data);
            while missing > 0 {
                let piece = missing.min(ZEROES.len() as u64);
                hasher.update(&ZEROES[..piece as usize]);
                missing -= piece;
            }
            hasher.finalize()
        };
        let mut digest = [0; LENGTH as usize];
        digest.copy_from_slice(&hash.as_bytes()[..LENGTH as usize]);
        if digest == [0; LENGTH as usize] {
            digest[0] = 1;
        }
        Self(digest)
    }

    fn from_slot(slot: [u8; LENGTH as usize]) -> Option<Self> {
        (slot != [0; LENGTH as usize]).then_some(Self(slot))
    }
}
