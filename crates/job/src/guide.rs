//! One page per concept, in reading order.
//!
//! Begin with the [crate's own page](crate); the programs in `examples/` are the same things, whole.

#[doc = include_str!("../docs/lifecycle.md")]
pub mod lifecycle {}

#[doc = include_str!("../docs/groups.md")]
pub mod groups {}

#[doc = include_str!("../docs/cancel.md")]
pub mod cancel {}

#[doc = include_str!("../docs/converging.md")]
pub mod converging {}

#[doc = include_str!("../docs/work.md")]
pub mod work {}

#[doc = include_str!("../docs/waiting.md")]
pub mod waiting {}

#[doc = include_str!("../docs/progress.md")]
pub mod progress {}

#[doc = include_str!("../docs/journal.md")]
pub mod journal {}

#[doc = include_str!("../docs/conformance.md")]
pub mod conformance {}

#[doc = include_str!("../docs/ending.md")]
pub mod ending {}

#[doc = include_str!("../docs/tracing.md")]
pub mod tracing {}
