//! QEMU's bitmaps inside qcow2 images: ours and QEMU's tools agree bit for bit, whatever is done to them.

mod catalogue;
mod changes;
mod damage;
mod kills;
mod kit;
mod peers;
mod shapes;
