//! Big-endian numbers in byte slices, as all of qcow2 has them but the bits themselves.

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes[at..at + 2]
        .iter()
        .fold(0, |value, byte| value << 8 | u16::from(*byte))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}
