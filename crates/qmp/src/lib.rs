//! The QEMU Machine Protocol as values: bytes in, typed commands out, replies and events back, for both sides.
//!
//! A server holds a [`Session`] for each client and an [`Outbox`] of what waits to be sent to it; a client holds a
//! [`Client`]. Whoever calls does the reading and writing: sockets, threads, jobs and disks are not known here.
//!
//! One table ([`Command`]) declares every command with its arguments and what it returns. Arguments are checked by
//! it, strictly and with QEMU's texts, and the answers to `query-commands` and `query-qmp-schema` are made from it.
//! What is handed out is in order: a [`Command`] has every argument that it needs, each of its type, and no other.
//! No bytes make this crate panic, or hold more than [`MAX_VALUE_BYTES`] of them.
//!
//! ```
//! use cohort_qmp::{Client, Command, Incoming, JobId, Received, Session, line, reply};
//! use serde_json::json;
//!
//! let (mut server, mut client) = (Session::new(), Client::new());
//! let (_, hello) = client.ask("qmp_capabilities", json!({}));
//! let (number, bytes) = client.request(&Command::JobPause(JobId { id: "backup0".into() }));
//!
//! let mut incoming = Vec::new();
//! server.receive(&[hello, bytes].concat(), &mut incoming);
//! let [Incoming::Answer(_), Incoming::Do { command, id }] = &incoming[..] else { panic!() };
//! assert_eq!(**command, Command::JobPause(JobId { id: "backup0".into() }));
//!
//! let mut received = Vec::new();
//! client.receive(&line(&reply(Ok(json!({})), id.clone())), &mut received)?;
//! assert_eq!(received, [Received::Reply { number, result: Ok(json!({})) }]);
//! # Ok::<_, cohort_qmp::BadServer>(())
//! ```
//!
//! # Source and limits
//!
//! `docs/interop/qmp-spec.rst` and `qapi/*.json` of QEMU 10, by what its storage daemon answers. Of its commands, those
//! for nodes, bitmaps, backups, jobs and exports. Nothing is carried out of order; `exec-oob` is understood and refused.

mod argument;
mod basic;
mod client;
mod commands;
mod error;
mod event;
mod json;
mod outbox;
mod session;
mod shape;

pub use argument::{Argument, Choice, Field, Members, Object, Place};
pub use client::{BadServer, Client, Received};
pub use commands::*;
pub use error::{Error, ErrorClass};
pub use event::{
    BlockJobError, BlockJobPending, BlockJobState, Event, ExportDeleted, JobStatusChange, Lagged,
    Shutdown, Timestamp, Told,
};
pub use json::{Decoder, MAX_NESTING, MAX_TOKENS, MAX_VALUE_BYTES};
pub use outbox::{Outbox, Overflow};
pub use session::{Incoming, Session, greeting, line, reply};
pub use shape::{Builtin, Member, Shape, Variant, Variants};

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
