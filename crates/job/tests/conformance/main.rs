//! The conformance kit: drivers that keep the rules pass, and each way to break one is told by name.

mod broken;
mod crashes;
mod good;
