//! Plans: the command line in a file, read by the same code, with file and line in every error.

mod lab;

use std::fs;

use lab::Lab;
use serde_json::json;

/// The example of the documentation.
const EXAMPLE: &str = include_str!("../../../docs/nightly.toml");

fn with_disks() -> Lab {
    let lab = Lab::new();
    lab.noise("root.img", 1, 1 << 20);
    lab.noise("data.qcow2", 2, 1 << 20);
    lab
}

#[test]
fn example_of_the_documentation_runs_from_anywhere() {
    let lab = with_disks();
    fs::write(lab.path("nightly.toml"), EXAMPLE).expect("a plan");
    let plan = lab.path("nightly.toml");
    let mut elsewhere = lab.program();
    elsewhere
        .current_dir("/")
        .arg("backup")
        .arg("--plan")
        .arg(&plan)
        .arg("--json");
    let ran: lab::Ran = elsewhere.output().expect("the program starts").into();
    assert_eq!(ran.exits(0).json()["run"], json!(1));
    let again = lab
        .cohort(["backup", "--plan=nightly.toml", "--individual", "--json"])
        .exits(0)
        .json();
    let names: Vec<_> = again["disks"]
        .as_array()
        .expect("disks")
        .iter()
        .map(|disk| disk["name"].clone())
        .collect();
    assert_eq!(names, ["data", "root"]);
    lab.restores_to("backup", "root@2", "root.img");
}

#[test]
fn command_line_wins_over_the_plan() {
    let lab = with_disks();
    fs::write(
        lab.path("p.toml"),
        "to = \"here\"\n[disks.a]\nsource = \"root.img\"\n",
    )
    .expect("a plan");
    lab.cohort([
        "backup",
        "--plan",
        "p.toml",
        "--to",
        "there",
        "b=data.qcow2",
    ])
    .exits(0);
    assert!(lab.path("there").exists() && !lab.path("here").exists());
    assert_eq!(lab.images("there").len(), 2);
}

#[test]
fn errors_name_file_line_and_the_nearest_key() {
    let lab = with_disks();
    let disk = "\n[disks.a]\nsource = \"root.img\"\n";
    for (plan, told) in [
        (
            format!("to = \"R\"\npolcy = \"ask\"{disk}"),
            "p.toml:2: there is no option polcy; did you mean policy?",
        ),
        (
            format!("to = \"R\"\n\nundecided = \"maybe\"{disk}"),
            "p.toml:3: invalid value 'maybe' for '--undecided",
        ),
        (
            format!("to = \"R\"\npolicy = \"sometimes\"{disk}"),
            "p.toml:2: invalid value 'sometimes' for '--policy",
        ),
        (
            format!("to = \"R\"\non-error = \"skip\"{disk}"),
            "p.toml:2: invalid value 'skip' for '--on-error",
        ),
        (
            format!("to = \"R\"\nspeed = \"fast\"{disk}"),
            "p.toml:2: invalid value 'fast' for '--speed",
        ),
        (
            format!("to = \"R\"\nstrict = \"yes\"{disk}"),
            "p.toml:2: strict is true or false",
        ),
        (
            format!("to = \"R\"{disk}sorce = 1\n"),
            "p.toml:4: there is no option sorce; did you mean source?",
        ),
        (
            format!("to = \"R\"{disk}strict = true\n"),
            "p.toml:4: there is no option strict",
        ),
        (
            "to = \"R\"\n[disks.a]\npolicy = \"ask\"\n".to_owned(),
            "p.toml:2: disk a has no source",
        ),
        (
            "to = \"R\"\ndisks = [\"a\"]\n".to_owned(),
            "p.toml:2: disks are tables",
        ),
        (
            format!("to = \"R\"\nto = \"S\"{disk}"),
            "p.toml:2: duplicate key",
        ),
        ("to = \n".to_owned(), "p.toml:1: "),
        (
            format!("plan = \"p.toml\"\nto = \"R\"{disk}"),
            "p.toml:1: there is no option plan",
        ),
    ] {
        fs::write(lab.path("p.toml"), plan).expect("a plan");
        lab.cohort(["backup", "--plan", "p.toml"])
            .exits(2)
            .says(&[told]);
        assert!(!lab.path("R").exists());
    }
    lab.cohort(["backup", "--plan", "nope.toml"])
        .exits(2)
        .says(&["nope.toml"]);
    lab.cohort(["backup", "--plan"]).exits(2);
}
