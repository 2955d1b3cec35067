//! `cohort top`: the jobs, groups and disks of a running server, live on the terminal.
//!
//! `ask.rs` looks at the server, on a thread of its own, and carries out what the user asks for. The [`Model`](model::Model) keeps what
//! was seen and answers keys, `rows.rs` works out what there is to show, `view.rs` draws it: all three without a terminal.
//! `screen.rs` has the terminal and gives it back, `plain.rs` is for where there is none.

mod ask;
mod model;
mod plain;
mod rows;
mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use crate::args;
use crate::commands::Server;
use crate::exit::Exit;
use crate::failure::Result;
use crate::interrupt;

/// Looking more often than this shows nobody more.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &args::Top) -> Result {
    let mut server = Server::connect(&args.at)?;
    let is_screen = io::stdout().is_terminal() && io::stdin().is_terminal();
    if args.once || args.at.output.json || !is_screen {
        plain::print(&ask::look(&mut server, Duration::ZERO)?, args);
        return Ok(Exit::Done);
    }
    let failed = |error| crate::failure::Failure::new(Exit::Other, error);
    let interrupts = interrupt::listen().map_err(failed)?;
    let model = model::Model::new(args.at.socket.display().to_string());
    let asker = ask::Asker::start(server, args.interval.max(LEAST_INTERVAL)).map_err(failed)?;
    screen::run(model, &asker, &interrupts)
}
