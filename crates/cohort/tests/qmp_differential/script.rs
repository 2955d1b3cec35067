//! Scripts: commands, and what to wait for; and what came of them.
//!
//! ```text
//! == a name {mode:on-success|always}
//!                          one script for each choice, in which $mode is that word
//! [mode=always] LINE       the line, only in such a script; several conditions with commas, several words with bars
//! include SETUP            the lines of the section `=setup SETUP`
//! COMMAND {ARGUMENTS}      its answer is compared
//! raw TEXT                 sent as it stands, with a line end; every answer to it is compared
//! wait JOB STATUS          until an event says that the job is in it
//! progress JOB BYTES       until it has begun, and so much of it is done
//! paused JOB               until it is paused
//! write EXPORT AT LENGTH BYTE    a guest's write, by qemu-io, through an export at guest.sock
//! abandon FILE             QEMU opens the image FILE to write, and is killed
//! files A B                at the end their bytes are compared
//! differ REASON            what the next line brings differs, for this reason of the page of differences
//! events differ JOB REASON    the events of that job do
//! file differs FILE REASON    the bytes of that file do
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::side::Side;

/// One script.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) lines: Vec<Line>,
    pub(crate) event_reasons: BTreeMap<String, String>,
    pub(crate) file_reasons: BTreeMap<String, String>,
    files: BTreeSet<String>,
    /// Every reason it gives.
    pub(crate) reasons: BTreeSet<String>,
}

/// One step, and why what it brings may differ.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) step: Step,
    pub(crate) reason: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Command(String, Value),
    Raw(String),
    Wait(String, String),
    Progress(String, u64),
    Paused(String),
    Write(String, u64, u64, u8),
    Abandon(String),
}

/// What came of a script.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    /// For each line what was answered; several for a raw one.
    pub(crate) answers: Vec<(String, Vec<Value>)>,
    /// The events of each job or export, in order.
    pub(crate) events: BTreeMap<String, Vec<String>>,
    pub(crate) files: BTreeMap<String, String>,
}

impl Transcript {
    pub(crate) fn answers(&self) -> usize {
        self.answers.iter().map(|(_, answers)| answers.len()).sum()
    }

    pub(crate) fn events(&self) -> usize {
        self.events.values().map(Vec::len).sum()
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (asked, answers) in &self.answers {
            writeln!(f, "{asked}")?;
            for answer in answers {
                writeln!(f, "    {answer}")?;
            }
        }
        for (job, events) in &self.events {
            writeln!(f, "{job}: {}", events.join(" "))?;
        }
        for (file, bytes) in &self.files {
            writeln!(f, "{file}: {bytes}")?;
        }
        Ok(())
    }
}

/// Every scenario of a folder, in the order of names.
pub(crate) fn read_all(folder: &Path) -> Vec<Scenario> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut setups = BTreeMap::new();
    let mut scenarios = Vec::new();
    for path in &paths {
        let text = std::fs::read_to_string(path).unwrap();
        collect_setups(&text, &mut setups);
    }
    for path in &paths {
        let text = std::fs::read_to_string(path).unwrap();
        scenarios.extend(read(&text, &setups));
    }
    scenarios
}

fn sections(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut sections = Vec::new();
    for line in text.lines().map(str::trim) {
        match line.strip_prefix('=') {
            Some(heading) => sections.push((heading, Vec::new())),
            None if line.is_empty() || line.starts_with('#') => {}
            None => sections.last_mut().expect("a heading first").1.push(line),
        }
    }
    sections
}

fn collect_setups(text: &str, setups: &mut BTreeMap<String, Vec<String>>) {
    for (heading, lines) in sections(text) {
        if let Some(name) = heading.strip_prefix("setup ") {
            let lines = lines.into_iter().map(str::to_owned).collect();
            setups.insert(name.to_owned(), lines);
        }
    }
}

fn read(text: &str, setups: &BTreeMap<String, Vec<String>>) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (heading, lines) in sections(text) {
        let Some(name) = heading.strip_prefix("= ") else {
            continue;
        };
        for (name, choices) in choices(name) {
            let mut expanded = Vec::new();
            expand(&lines, setups, &mut expanded);
            let chosen: Vec<_> = expanded
                .iter()
                .filter_map(|line| choose(line, &choices))
                .collect();
            scenarios.push(scenario(&name, &chosen));
        }
    }
    scenarios
}

/// What variables of a script stand for.
type Choices = Vec<(String, String)>;

/// A heading with each of its choices, and what they are.
fn choices(heading: &str) -> Vec<(String, Choices)> {
    let Some((before, rest)) = heading.split_once('{') else {
        return vec![(heading.to_owned(), Choices::new())];
    };
    let (variable, after) = rest.split_once('}').expect("a closing brace");
    let (key, words) = variable.split_once(':').expect("a colon");
    let mut all = Vec::new();
    for word in words.split('|') {
        for (name, mut chosen) in choices(after) {
            chosen.push((key.to_owned(), word.to_owned()));
            all.push((format!("{before}{word}{name}"), chosen));
        }
    }
    all
}

/// A line as it is in the script of these choices, if it is in it.
fn choose(line: &str, choices: &Choices) -> Option<String> {
    let mut line = line.to_owned();
    while let Some((conditions, rest)) = line.strip_prefix('[').and_then(|l| l.split_once("] ")) {
        let holds = |condition: &str| {
            let (key, words) = condition.split_once('=').expect("an equals sign");
            let chosen = choices.iter().find(|(known, _)| known == key);
            let chosen = &chosen.unwrap_or_else(|| panic!("{key} is not chosen")).1;
            words.split('|').any(|word| word == chosen)
        };
        if !conditions.split(',').all(holds) {
            return None;
        }
        line = rest.to_owned();
    }
    for (key, word) in choices {
        line = line.replace(&format!("${key}"), word);
    }
    Some(line)
}

fn expand(lines: &[&str], setups: &BTreeMap<String, Vec<String>>, out: &mut Vec<String>) {
    for line in lines {
        match line.strip_prefix("include ") {
            Some(setup) => {
                let lines: Vec<_> = setups[setup].iter().map(String::as_str).collect();
                expand(&lines, setups, out);
            }
            None => out.push((*line).to_owned()),
        }
    }
}

fn scenario(name: &str, lines: &[String]) -> Scenario {
    let mut scenario = Scenario {
        name: name.to_owned(),
        lines: Vec::new(),
        event_reasons: BTreeMap::new(),
        file_reasons: BTreeMap::new(),
        files: BTreeSet::new(),
        reasons: BTreeSet::new(),
    };
    let mut reason = None;
    for line in lines {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["differ", why] => reason = Some(why.to_owned()),
            ["events", "differ", job, why] => {
                scenario
                    .event_reasons
                    .insert(job.to_owned(), why.to_owned());
                scenario.reasons.insert(why.to_owned());
                continue;
            }
            ["file", "differs", file, why] => {
                scenario
                    .file_reasons
                    .insert(file.to_owned(), why.to_owned());
                scenario.reasons.insert(why.to_owned());
                continue;
            }
            ["files", ref files @ ..] => {
                scenario
                    .files
                    .extend(files.iter().map(|file| (*file).to_owned()));
                continue;
            }
            _ => {
                let step = step(line, &words);
                let reason = reason.take();
                scenario.reasons.extend(reason.clone());
                scenario.lines.push(Line { step, reason });
            }
        }
    }
    scenario
}

fn step(line: &str, words: &[&str]) -> Step {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{line}"));
    match words {
        ["raw", ..] => Step::Raw(line["raw ".len()..].to_owned()),
        ["wait", job, status] => Step::Wait((*job).to_owned(), (*status).to_owned()),
        ["abandon", file] => Step::Abandon((*file).to_owned()),
        ["paused", job] => Step::Paused((*job).to_owned()),
        ["progress", job, done] => Step::Progress((*job).to_owned(), number(done)),
        ["write", node, at, length, byte] => Step::Write(
            (*node).to_owned(),
            number(at),
            number(length),
            number(byte) as u8,
        ),
        _ => {
            let (command, arguments) = line.split_once(' ').unwrap_or((line, "{}"));
            let arguments = serde_json::from_str(arguments);
            let arguments = arguments.unwrap_or_else(|error| panic!("{line}: {error}"));
            Step::Command(command.to_owned(), arguments)
        }
    }
}

/// Plays a script to one side.
pub(crate) fn play(scenario: &Scenario, side: &mut Side, folder: &Path) -> Transcript {
    let mut transcript = Transcript::default();
    for Line { step, .. } in &scenario.lines {
        match step {
            Step::Command(name, arguments) => {
                let answer = side.ask(name, arguments);
                let asked = format!("{name} {arguments}");
                transcript.answers.push((asked, vec![normal(name, answer)]));
            }
            Step::Raw(text) => {
                let answers = side.raw(text);
                transcript.answers.push((text.clone(), answers));
            }
            Step::Wait(job, status) => side.wait(job, status, &scenario.name),
            Step::Paused(job) => side.wait_for_pause(job, &scenario.name),
            Step::Progress(job, done) => side.wait_for_progress(job, *done, &scenario.name),
            Step::Abandon(file) => side.abandon(file),
            Step::Write(node, at, length, byte) => side.write(node, *at, *length, *byte),
        }
    }
    side.settle();
    for file in &scenario.files {
        let bytes = std::fs::read(folder.join(file)).unwrap_or_default();
        transcript.files.insert(file.clone(), outline(&bytes));
    }
    transcript.events = side.events();
    side.end();
    transcript
}

/// A file as its 64 KiB clusters: a digit for each, what all its bytes are, or a star.
fn outline(bytes: &[u8]) -> String {
    let cluster = |bytes: &[u8]| {
        let first = bytes[0];
        if bytes.iter().all(|byte| *byte == first) {
            format!("{first:02x}")
        } else {
            "**".to_owned()
        }
    };
    let clusters: Vec<_> = bytes.chunks(65536).map(cluster).collect();
    format!("{} bytes {}", bytes.len(), clusters.join(""))
}

/// What two daemons cannot have in common is taken out: sizes on the host's disk, the daemon's own name, what only one
/// of them counts.
fn normal(command: &str, mut answer: Value) -> Value {
    match command {
        "query-named-block-nodes" => {
            let nodes = answer["return"].as_array().cloned().unwrap_or_default();
            let named = |node: &Value| !node["node-name"].as_str().unwrap_or("#").starts_with('#');
            let nodes: Vec<_> = nodes.into_iter().filter(named).map(normal_node).collect();
            answer["return"] = nodes.into();
        }
        "query-block-jobs" => {
            // Whether it is busy at this very moment is chance.
            for job in answer["return"].as_array_mut().into_iter().flatten() {
                job["busy"].take();
            }
        }
        _ => {}
    }
    answer
}

fn normal_node(node: Value) -> Value {
    let Value::Object(node) = node else {
        return node;
    };
    let kept = [
        "node-name",
        "drv",
        "ro",
        "active",
        "encrypted",
        "backing_file_depth",
        "detect_zeroes",
        "cache",
        "dirty-bitmaps",
    ];
    let mut normal: Map<String, Value> = node
        .iter()
        .filter(|(name, _)| kept.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    normal.insert(
        "virtual-size".to_owned(),
        node["image"]["virtual-size"].clone(),
    );
    if let Some(Value::Array(bitmaps)) = normal.get_mut("dirty-bitmaps") {
        // Those without a name are the daemon's own.
        bitmaps.retain(|bitmap| bitmap.get("name").is_some());
        if bitmaps.is_empty() {
            normal.remove("dirty-bitmaps");
        }
    }
    json!(normal)
}
