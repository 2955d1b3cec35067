//! Several files are replaced together, or none of them: `deploy DIR NAME=TEXT ..`.
//!
//! The verdict is in the journal before the first file is renamed, so whatever kills the program, the next start finishes
//! what was decided, and sweeps away what never was. `DEPLOY_DIE_AT=N` kills it at the Nth step that matters; the tests
//! try every one.

mod replace;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use cohort_job::{Engine, JobSpec};
use cohort_journal::FileJournal;

use replace::{KIND, Replace, moment, rebuild, sweep};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: deploy DIR NAME=TEXT ..")?);
    let journal = Arc::new(FileJournal::open(folder.join("verdicts"))?);
    let engine = Engine::builder().journal(journal).build()?;
    let recovered = engine.recover(rebuild)?;
    recovered.groups.iter().for_each(|group| _ = group.wait());
    sweep(&folder)?;

    let mut group = engine.group("deploy");
    for argument in arguments {
        let (name, text) = argument.split_once('=').ok_or("NAME=TEXT is expected")?;
        let replace = Replace::new(folder.join(name), text);
        group.add(JobSpec::new(name).kind(KIND), replace)?;
    }
    println!("{:?}", group.launch().wait());
    moment();
    Ok(())
}
