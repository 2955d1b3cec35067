//! The program `cohort`. Everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    cohort::main()
}
