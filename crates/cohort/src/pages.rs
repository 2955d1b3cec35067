//! The pages of the reference that are printed from the code, `docs/cli.md`, `docs/exit-codes.md` and `docs/metrics.md`, and the
//! arguments that the service is given.
//!
//! A test fails when a page says anything else. `COHORT_PAGES=write cargo test -p cohort --lib pages` writes them anew.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory, Parser};

use crate::args::Cli;
use crate::exit::Exit;
use crate::metrics::Family;

#[test]
fn the_page_tells_every_command_and_option() {
    let mut program = Cli::command();
    program.build();
    let mut text = String::new();
    for command in program.get_subcommands_mut() {
        tell_command(command, 2, &mut text);
    }
    assert_printed("cli.md", "commands", &text);
}

#[test]
fn the_page_tells_every_exit_code() {
    let mut table = "| code | in JSON | means |\n|---|---|---|\n".to_owned();
    for exit in Exit::ALL {
        let (code, word, meaning) = (exit.code(), exit.word(), exit.meaning());
        writeln!(table, "| {code} | `{word}` | {meaning} |").unwrap();
    }
    assert_printed("exit-codes.md", "exit-codes", &table);
}

#[test]
fn the_page_tells_every_metric() {
    let mut table = "| metric | kind | labels | says |\n|---|---|---|---|\n".to_owned();
    for family in Family::ALL {
        let labels: Vec<_> = family.labels().iter().map(|l| format!("`{l}`")).collect();
        let (name, kind, labels) = (family.name(), family.kind().word(), labels.join(", "));
        let help = family.help();
        writeln!(table, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    assert_printed("metrics.md", "metrics", &table);
}

#[test]
fn the_service_gives_arguments_that_are_understood() {
    let text = read("packaging/cohort.default");
    let example = text
        .lines()
        .find_map(|line| line.strip_prefix("#COHORT_SERVE="));
    let given = example
        .expect("an example")
        .trim_matches('"')
        .split_whitespace();
    let unit = read("packaging/cohort.service");
    assert!(unit.contains("ExecStart=/usr/bin/cohort serve $COHORT_SERVE\n"));
    let parsed = Cli::try_parse_from(["cohort", "serve"].into_iter().chain(given));
    assert!(parsed.is_ok(), "{parsed:?}");
}

/// A command and those below it, each under a heading of its own.
fn tell_command(command: &mut Command, level: usize, out: &mut String) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let usage = command.render_usage().to_string();
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let about = command.get_long_about().or(command.get_about());
    writeln!(out, "{} {name}\n", "#".repeat(level)).unwrap();
    writeln!(out, "{}\n", about.expect("every command says what it does")).unwrap();
    writeln!(
        out,
        "```text\n{}\n```\n",
        usage.trim_start_matches("Usage: ")
    )
    .unwrap();
    let told: Vec<&Arg> = command.get_arguments().filter(|arg| is_told(arg)).collect();
    if !told.is_empty() {
        writeln!(out, "| argument | means |\n|---|---|").unwrap();
        for arg in told {
            writeln!(
                out,
                "| `{}` | {} |",
                cell(&spelled(arg)),
                cell(&meaning(arg))
            )
            .unwrap();
        }
        out.push('\n');
    }
    for below in command.get_subcommands_mut() {
        tell_command(below, level + 1, out);
    }
}

/// Whether an argument has a row: `--help` is everywhere and would only repeat itself.
fn is_told(arg: &Arg) -> bool {
    !arg.is_hide_set() && arg.get_id() != "help" && arg.get_id() != "version"
}

/// An argument as it is typed, with the name of its value.
fn spelled(arg: &Arg) -> String {
    let takes = arg.get_action().takes_values();
    let values = arg.get_value_names().unwrap_or_default().join(" ");
    match arg.get_long() {
        Some(long) if takes => format!("--{long} {values}"),
        Some(long) => format!("--{long}"),
        None => values,
    }
}

/// What an argument means, then its values and what it is without a word.
fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help());
    let mut text = help.expect("every argument says what it means").to_string();
    if !arg.get_action().takes_values() {
        return text;
    }
    for value in arg.get_possible_values() {
        let told = value.get_help().map(|help| format!(": {help}"));
        write!(
            text,
            "<br>`{}`{}",
            value.get_name(),
            told.unwrap_or_default()
        )
        .unwrap();
    }
    let defaults: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    if !defaults.is_empty() {
        write!(text, "<br>By default `{}`.", defaults.join(" ")).unwrap();
    }
    text
}

/// Text as it may stand in a row of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace("\n\n", "<br>")
        .replace('\n', " ")
}

/// Compares what stands in a page between `<!-- name: … -->` and `<!-- end -->` with `expected`.
fn assert_printed(page: &str, name: &str, expected: &str) {
    let path = format!("docs/{page}");
    let text = read(&path);
    let mark = format!("<!-- {name}: printed from the code -->\n");
    let (before, rest) = text.split_once(&mark).expect("a mark");
    let (printed, after) = rest.split_once("<!-- end -->").expect("an end mark");
    if std::env::var("COHORT_PAGES").is_ok_and(|word| word == "write") {
        let written = format!("{before}{mark}{expected}<!-- end -->{after}");
        return std::fs::write(root().join(path), written).expect("the page can be written");
    }
    assert!(
        printed == expected,
        "docs/{page}, {name}: the code says\n{expected}"
    );
}

/// A file of the tree.
fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect("the file is in the tree")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
