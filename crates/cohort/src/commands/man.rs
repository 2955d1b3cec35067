//! `cohort man DIR`: a manual page for the program and for each of its commands, made from what reads the arguments.

use std::io::Write;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

pub(super) fn run(args: &args::Man) -> Result {
    write_pages(&args.dir).map_err(|error| Failure {
        exit: Exit::Other,
        error: anyhow::Error::new(error)
            .context(format!("{}: cannot write the pages", args.dir.display())),
    })?;
    Ok(Exit::Done)
}

/// Writes all pages into a folder, which is made if it does not exist; what has the name of one is replaced.
fn write_pages(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut program = args::Cli::command().disable_help_subcommand(true);
    program.build();
    for command in program.get_subcommands() {
        write_page(command, folder)?;
    }
    let page = page(&program);
    let mut text = Vec::new();
    page.render(&mut text)?;
    write_exit_codes(&mut text)?;
    std::fs::write(folder.join(page.get_filename()), text)
}

/// Writes the pages of a command and of those below it.
fn write_page(command: &Command, folder: &Path) -> std::io::Result<()> {
    for below in command.get_subcommands() {
        write_page(below, folder)?;
    }
    page(command).generate_to(folder).map(drop)
}

fn page(command: &Command) -> Man {
    let source = concat!("cohort ", env!("CARGO_PKG_VERSION"));
    // No date, so that a page is the same whenever it is made; an empty one would be left out, and the source be taken for it.
    let man = Man::new(command.clone()).date(" ");
    man.source(source).manual("Cohort")
}

/// Writes the section that man(7) calls so.
fn write_exit_codes(out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, ".SH \"EXIT STATUS\"")?;
    for exit in Exit::ALL {
        let meaning = exit.meaning().replace('-', "\\-");
        writeln!(out, ".TP 6\n{}\n{meaning}", exit.code())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::process::Command;

    use clap::CommandFactory;

    use super::write_pages;
    use crate::args::Cli;

    #[test]
    fn every_command_has_its_page() {
        let folder = tempfile::tempdir().unwrap();
        write_pages(&folder.path().join("new")).unwrap();
        let mut program = Cli::command().disable_help_subcommand(true);
        program.build();
        let mut expected = BTreeSet::new();
        name_pages(&program, "cohort", &mut expected);
        assert_eq!(written(&folder.path().join("new")), expected);
        assert!(expected.contains("cohort-bitmap-decide.1"));
    }

    #[test]
    fn man_has_nothing_to_say_against_any_page() {
        if Command::new("man").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "there is no man");
            eprintln!("SKIPPED: there is no man, so no page was shown to it");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        write_pages(folder.path()).unwrap();
        for page in written(folder.path()) {
            let mut man = Command::new("man");
            man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "100");
            let said = man
                .args(["--warnings", "-l"])
                .arg(folder.path().join(&page))
                .output()
                .unwrap();
            assert!(
                said.status.success() && said.stderr.is_empty(),
                "{page}: {said:?}"
            );
            let text = String::from_utf8(said.stdout).unwrap();
            assert!(text.contains("SYNOPSIS"), "{page}: {text}");
            assert_eq!(text.contains("EXIT STATUS"), page == "cohort.1", "{page}");
        }
    }

    fn name_pages(command: &clap::Command, name: &str, out: &mut BTreeSet<String>) {
        out.insert(format!("{name}.1"));
        for below in command.get_subcommands() {
            name_pages(below, &format!("{name}-{}", below.get_name()), out);
        }
    }

    fn written(folder: &Path) -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}
