//! `cohort catalogue dump` and `load`: the catalogue as text, and back.

use std::io::Read;

use anyhow::Context;
use cohort_backup::catalogue::{self, Catalogue, Contents};

use super::close;
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::print_line;

pub(super) fn run(args: &args::Catalogue) -> Result {
    match args {
        args::Catalogue::Dump { dir } => print_line(catalogue::read(dir)?.dump().trim_end()),
        args::Catalogue::Load { dir } => {
            let mut text = String::new();
            let read = std::io::stdin()
                .read_to_string(&mut text)
                .context("standard input cannot be read");
            read.map_err(|error| Failure {
                exit: Exit::Other,
                error,
            })?;
            let contents = Contents::undump(&text)
                .map_err(|error| Failure::new(Exit::CatalogueDamaged, error))?;
            close(Catalogue::load(dir, contents)?);
        }
    }
    Ok(Exit::Done)
}
