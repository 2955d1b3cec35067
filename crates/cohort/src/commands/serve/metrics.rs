//! `cohort serve --metrics`: where they are told.

use std::sync::Weak;

use super::failed_to_listen;
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::metrics::{Address, Metrics, Source};
use crate::output::eprint_line;
use crate::serve::Listener;

/// A socket at which nobody is answered yet.
pub(super) struct Socket {
    listener: Listener,
    /// Where it is, with the port that the system chose.
    pub(super) address: Address,
}

/// The socket that is asked for, if one is.
pub(super) fn listen(args: &args::Serve) -> Result<Option<Socket>> {
    let Some(address) = &args.metrics else {
        return Ok(None);
    };
    let failed = failed_to_listen(address.to_string());
    let (listener, address) = match address {
        Address::Unix(path) => (Listener::unix(path).map_err(failed)?, address.clone()),
        Address::Tcp(address) => {
            let listener = Listener::tcp(*address).map_err(&failed)?;
            let bound = listener.address().map_err(failed)?.unwrap_or(*address);
            eprint_line(&format!(
                "cohort: warning: whoever reaches {bound} is told the names of disks and jobs and what they do"
            ));
            (listener, Address::Tcp(bound))
        }
    };
    Ok(Some(Socket { listener, address }))
}

/// Begins to answer there.
pub(super) fn start(socket: Option<Socket>, source: Weak<dyn Source>) -> Result<Option<Metrics>> {
    let started = socket.map(|socket| Metrics::start(socket.listener, source));
    let started = started.transpose();
    started.map_err(|error| Failure::new(Exit::Other, error))
}
