//! `cohort completions SHELL`: a script that completes commands and options, made from what reads them.

use clap::CommandFactory;

use crate::args;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::print_line;

pub(super) fn run(args: &args::Completions) -> Result {
    print_line(script(args.shell).trim_end());
    Ok(Exit::Done)
}

/// The script for a shell.
fn script(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::Cli::command(), "cohort", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use clap::ValueEnum;
    use clap_complete::Shell;

    use super::script;

    #[test]
    fn bash_completes_commands_options_and_values() {
        for (typed, expected) in [
            ("bac", "backup"),
            ("bitmap dec", "decide"),
            ("restore --fro", "--from"),
            ("backup --undecided dis", "discard"),
        ] {
            assert_eq!(completed_by_bash(typed), expected, "{typed}");
        }
    }

    #[test]
    fn every_shell_has_a_script_that_knows_every_command() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for word in ["backup", "exit-codes", "--policy", "finalize"] {
                // Fish has options without their dashes.
                let word = word.trim_start_matches('-');
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    /// What a real bash makes of `typed` after the program's name, with the cursor at its end.
    fn completed_by_bash(typed: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cohort.bash");
        std::fs::write(&path, script(Shell::Bash)).unwrap();
        let ask = r#"
            set -e
            bash -n "$1"
            source "$1"
            COMP_WORDS=(cohort $2)
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            COMP_LINE="cohort $2"
            COMP_POINT=${#COMP_LINE}
            [[ "$(complete -p cohort)" == *"-F _cohort "* ]]
            _cohort cohort "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" || true
            echo "${COMPREPLY[@]}"
        "#;
        let mut bash = Command::new("bash");
        bash.args(["--norc", "--noprofile", "-c", ask, "bash"])
            .arg(&path)
            .arg(typed);
        let said = bash.output().expect("bash is there");
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    }
}
