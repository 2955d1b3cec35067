//! The Network Block Device protocol as values: bytes in, requests and replies out, and back, for both sides.
//!
//! A server holds a [`Handshake`] until its client has entered an export, and a [`Session`] from then on; a client
//! holds a [`Connecting`], then a [`Client`]. Each says how many bytes it wants, takes exactly those, and appends to
//! a buffer what is to be sent. Whoever calls does the reading and writing: sockets, threads and time are not known
//! here, and neither is what a disk is.
//!
//! What is handed out has been judged. A [`Request`] lies within its export, respects its being read-only, is no
//! longer than the limits and has no flag that was not negotiated; what does not is [`Incoming::Refuse`], which knows
//! its error, or a [`Violation`], after which nothing can be understood. No bytes make this crate panic, or hold more
//! than [`MAX_OPTION`] of them.
//!
//! ```
//! use cohort_nbd::{Command, ConnectStep, Connecting, Export, Exports, Handshake, Incoming, Name, Request};
//! use cohort_nbd::{Step, Tls, Wish};
//!
//! struct One;
//! impl Exports for One {
//!     fn names(&self) -> Vec<Name> {
//!         vec![Name::new("vda").unwrap()]
//!     }
//!     fn find(&self, name: &Name) -> Option<Export> {
//!         (name.as_str() == "vda").then(|| Export {
//!             name: name.clone(),
//!             size: 1 << 20,
//!             read_only: true,
//!             preferred_length: 4096,
//!             contexts: vec![],
//!         })
//!     }
//! }
//!
//! // Two buffers stand for the wire.
//! let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
//! let mut server = Handshake::begin(Tls::Off, &mut to_client);
//! let mut client = Connecting::begin(Wish { name: Name::new("vda")?, contexts: vec![] });
//! let (session, client) = loop {
//!     let mut entered = None;
//!     while to_server.len() >= server.wants() && !to_server.is_empty() && entered.is_none() {
//!         let bytes: Vec<u8> = to_server.drain(..server.wants()).collect();
//!         if let Step::Transmit(session) = server.receive(&bytes, &One, &mut to_client)? {
//!             entered = Some(session);
//!         }
//!     }
//!     let mut ready = None;
//!     while to_client.len() >= client.wants() && !to_client.is_empty() && ready.is_none() {
//!         let bytes: Vec<u8> = to_client.drain(..client.wants()).collect();
//!         if let ConnectStep::Ready(inside) = client.receive(&bytes, &mut to_server)? {
//!             ready = Some(inside);
//!         }
//!     }
//!     if let (Some(session), Some(client)) = (entered, ready) {
//!         break (session, client);
//!     }
//! };
//!
//! let read = Request { cookie: 7, command: Command::Read { offset: 512, length: 512, whole: false } };
//! client.request(&read, &mut to_server)?;
//! assert_eq!(session.receive(&to_server)?, Incoming::Do(read));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # Source and limits
//!
//! `doc/proto.md` and `doc/uri.md` of `NetworkBlockDevice/nbd`: fixed newstyle with structured replies and extended
//! headers; the contexts of QEMU's `docs/interop/nbd.txt`. Not here: oldstyle, `NBD_OPT_PEEK_EXPORT`, resizing, block
//! status for chosen contexts only, and TLS itself, for which there is a [`Step`].

mod client;
mod code;
mod connect;
mod context;
mod export;
mod handshake;
mod limits;
mod option;
mod request;
mod session;
mod uri;
mod wire;

pub use client::{BadReply, Client, Content, Head, TooLong};
pub use code::ErrorCode;
pub use connect::{ConnectError, ConnectStep, Connecting, Wish};
pub use context::{BitmapName, Context, Status};
pub use export::{Export, ExportFlags, Exports};
pub use handshake::{Handshake, Step, Violation};
pub use limits::{MAX_EXTENTS, MAX_NAME, MAX_OPTION, MAX_PAYLOAD, Name, NameError};
pub use option::{Mode, Tls};
pub use request::{Command, Request};
pub use session::{Incoming, Reply, Session};
pub use uri::{DEFAULT_PORT, Server, Uri, UriError, UriTls};

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
