//! Results on standard output: JSON lines for programs, text for people.

use std::io::Write;

use serde::Serialize;

/// Prints `value` as one line of JSON.
pub(crate) fn json_line<T: Serialize>(value: &T) {
    print_line(&json_text(value));
}

/// `value` as one line of JSON.
pub(crate) fn json_text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

/// Prints a line. A reader that closed its end has seen enough: nothing is lost, and nobody is told.
pub(crate) fn print_line(line: &str) {
    let _ = writeln!(anstream::stdout().lock(), "{line}");
}

/// Says a line on standard error.
pub(crate) fn eprint_line(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// An empty table without lines, for people.
pub(crate) fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_header(header);
    // Rows are never broken: a terminal that is too narrow wraps, and a pipe wants one line a row.
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table
}
