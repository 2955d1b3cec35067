//! A qcow2 image made by hand, for those who need no QEMU.
#![allow(dead_code, reason = "each test program uses its part of it")]

/// Length of a cluster of the image made here: small, so that little of it is padding.
pub(crate) const CLUSTER: usize = 512;
/// Length of the disk in it: four clusters and a bit.
pub(crate) const SIZE: u64 = 4 * 512 + 100;

/// A sound image of seven clusters made by hand: header, refcount table, refcount block, L1 table, L2
/// table, two data clusters. The third of its clusters reads as zero, the rest is unallocated.
pub(crate) fn image() -> Vec<u8> {
    let mut bytes = vec![0; 7 * CLUSTER];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &9u32.to_be_bytes());
    put(24, &SIZE.to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &(3 * CLUSTER as u64).to_be_bytes());
    put(48, &(CLUSTER as u64).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &112u32.to_be_bytes());
    put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..7 {
        put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes());
    }
    let copied = 1u64 << 63;
    put(3 * CLUSTER, &(copied | (4 * CLUSTER) as u64).to_be_bytes());
    put(4 * CLUSTER, &(copied | (5 * CLUSTER) as u64).to_be_bytes());
    put(
        4 * CLUSTER + 8,
        &(copied | (6 * CLUSTER) as u64).to_be_bytes(),
    );
    put(4 * CLUSTER + 16, &1u64.to_be_bytes());
    put(5 * CLUSTER, &[7; 2 * CLUSTER]);
    bytes
}

pub(crate) fn with(at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = image();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

/// Adds a header extension and, behind it, the end mark.
pub(crate) fn with_extension(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut extension = kind.to_be_bytes().to_vec();
    extension.extend((data.len() as u32).to_be_bytes());
    extension.extend(data);
    with(112, &extension)
}

/// Adds the name of a backing file.
pub(crate) fn with_backing(bytes: Vec<u8>, name: &str) -> Vec<u8> {
    let mut bytes = bytes;
    bytes[8..16].copy_from_slice(&300u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
    bytes[300..300 + name.len()].copy_from_slice(name.as_bytes());
    bytes
}
