//! Plans: the command line in a file, read by the same code, with file and line in every error.

mod lab;

use std::fs;

use lab::machine::Machine;
use lab::server::Server;
use lab::{Lab, have};
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
            "p.toml:4: there is no option strict for one disk: say it above all [disks.…]",
        ),
        (
            "to = \"R\"\n[disks.\"a=b\"]\nsource = \"root.img\"\n".to_owned(),
            "p.toml:2: disk name \"a=b\" may not contain '='",
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

#[test]
fn a_second_plan_is_refused_and_not_passed_over() {
    let lab = with_disks();
    for (plan, disk) in [("p.toml", "root.img"), ("q.toml", "data.qcow2")] {
        let text = format!("to = \"R\"\n[disks.a]\nsource = \"{disk}\"\n");
        fs::write(lab.path(plan), text).expect("a plan");
    }
    lab.cohort(["backup", "--plan", "p.toml", "--plan=q.toml"])
        .exits(2)
        .says(&["q.toml: one plan only: p.toml was named before"]);
    assert!(!lab.path("R").exists());
}

#[test]
fn an_option_that_excludes_others_may_stand_in_a_plan() {
    let lab = with_disks();
    fs::write(lab.path("p.toml"), "to = \"R\"\nsocket = \"none\"\n").expect("a plan");
    lab.cohort(["backup", "--plan", "p.toml"])
        .exits(54)
        .says(&["none"]);
    lab.cohort(["backup", "--plan", "p.toml", "--scratch", "."])
        .exits(2)
        .says(&["--socket", "--scratch"]);
}

/// An address is no path, so it does not begin where the plan is; a machine's socket does.
#[test]
fn sources_may_be_exports_and_machines_wherever_the_plan_is() {
    let lab = with_disks();
    fs::create_dir(lab.path("plans")).expect("a directory");
    let server = Server::start(&lab, &["root.img", "--read-only"]);
    let text = format!(
        "to = \"../R\"\n[disks.disk]\nsource = \"{}\"\n",
        server.uri("root")
    );
    fs::write(lab.path("plans/export.toml"), text).expect("a plan");
    lab.cohort(["backup", "--plan", "plans/export.toml"])
        .exits(0);
    lab.restores_to("R", "disk@1", "root.img");
    if !have(&["qemu-storage-daemon"]) {
        return;
    }
    let disks = [
        "--blockdev",
        "driver=file,node-name=a,filename=root.img",
        "--blockdev",
        "driver=file,node-name=b,filename=data.qcow2",
    ];
    let _machine = Machine::daemon(&lab, &disks);
    drop(server);
    for (source, names) in [
        ("", &["a", "b"][..]),
        (",a", &["vm"]),
        (",b,root=a", &["b", "root"]),
    ] {
        let text = format!("to = \"../M\"\n[disks.vm]\nsource = \"qmp:../qmp.sock{source}\"\n");
        fs::write(lab.path("plans/machine.toml"), text).expect("a plan");
        let args = ["backup", "--plan", "plans/machine.toml", "--json"];
        let report = lab.cohort(args).exits(0).json();
        let disks = report["disks"].as_array().expect("disks").iter();
        let mut told: Vec<_> = disks
            .map(|disk| disk["name"].as_str().expect("a name"))
            .collect();
        told.sort_unstable();
        assert_eq!(told, names);
    }
}
