//! `cohort exit-codes`: the table of exit codes, from the code itself.

use serde::Serialize;

use crate::args;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::{json_line, print_line};

#[derive(Debug, Serialize)]
struct Row {
    code: u8,
    exit: &'static str,
    meaning: &'static str,
}

pub(super) fn run(args: &args::ExitCodes) -> Result {
    for exit in Exit::ALL {
        let row = Row {
            code: exit.code(),
            exit: exit.word(),
            meaning: exit.meaning(),
        };
        if args.output.json {
            json_line(&row);
        } else {
            print_line(&format!(
                "{:>3}  {:<19}  {}",
                row.code, row.exit, row.meaning
            ));
        }
    }
    Ok(Exit::Done)
}
