//! What the program says of a fault that it met: an exit code of the page and the word for it in JSON, and a message that
//! names the thing that failed and why.

use cohort_tests::crash::How;
use serde_json::Value;

use super::act::Act;
use super::world::Played;

/// The documentation, which has a row for each code.
const PAGE: &str = include_str!("../../../../docs/exit-codes.md");

/// How a command may exit: as if nothing had happened, if what was left to do could be done without what failed. A sync that
/// failed is never passed over, but for those of the catalogue when what it was to hold is durable
/// ([`Stage::counts`](super::stage::Stage::counts)): that hooks ran, and that it was closed, the next run finds out; and then
/// that is said.
fn allowed(act: Act, how: How, point: &str) -> Vec<i32> {
    let done = act.code();
    match how {
        How::Kill => vec![],
        // In doubt, no room.
        How::Full => vec![done, 10, 40],
        // In doubt, the target cannot be written, the directory cannot be used.
        How::ReadOnly => vec![done, 10, 41, 43],
        How::Io if point == "catalogue.sync" => vec![done, 10, 43],
        // The point stands, and the next run compares.
        How::Io if point.starts_with("image.") => vec![done],
        How::Io => vec![41, 43],
    }
}

/// What the operating system's error is called.
fn words(how: How) -> &'static str {
    match how {
        How::Kill => "",
        How::Full => "No space left on device",
        How::ReadOnly => "Read-only file system",
        How::Io => "Input/output error",
    }
}

/// Things that may fail, in the words of messages: files of the directory, what is restored, the catalogue.
const THINGS: [&str; 6] = [
    "R/",
    "R:",
    "out.img",
    "out.qcow2",
    "the catalogue",
    "the directory",
];

/// What is said by who has done what was asked, and could not write that it is over.
const UNCLOSED: &str = "R: the catalogue was not written to its end";

/// Who exits as if nothing had happened says what could not be written, unless nothing failed: a full file system still syncs and removes. That
/// the number of a process that is gone stays in a lock's file concerns nobody: the next one writes its own over it.
fn though_done(how: How, point: &str, said: &str) -> Result<(), String> {
    let takes_room = [".make", ".write", ".cut"];
    let failed = how != How::Full || takes_room.iter().any(|end| point.ends_with(end));
    let failed = failed && point != "lock.cut";
    match said.contains(UNCLOSED) && said.contains(words(how)) {
        false if failed => {
            Err("it exits with its own code, and does not say what it could not write".to_owned())
        }
        _ => Ok(()),
    }
}

/// An account in an image that could not be cleared costs nothing but a comparison, and that is said. A full file system
/// still syncs.
fn left_as_it_is(how: How, point: &str, said: &str) -> Result<(), String> {
    let spared = how == How::Full && point.ends_with(".sync");
    match spared || said.contains("is left as it is") && said.contains(words(how)) {
        true => Ok(()),
        false => Err(format!("it does not say what it could not clear: {said}")),
    }
}

/// Whether it told of what happened as it should.
pub(crate) fn told(played: &Played) -> Result<(), String> {
    let mut log = played.ended.log.iter();
    let hit = log.find(|reached| reached.hit);
    let (Some(hit), Some(how), Some(code)) = (hit, played.how, played.ended.code) else {
        return Ok(());
    };
    if !allowed(played.act, how, &hit.point.name).contains(&code) {
        return Err(format!("it exits with {code}"));
    }
    if code == played.act.code() {
        if hit.point.name.starts_with("image.") {
            return left_as_it_is(how, &hit.point.name, &played.ended.stdout);
        }
        return though_done(how, &hit.point.name, &played.ended.stderr);
    }
    let line = played.ended.stdout.lines().last().unwrap_or_default();
    let json: Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
    let row = format!(
        "| {code} | `{}` |",
        json["exit"].as_str().unwrap_or_default()
    );
    if json["code"] != code || !PAGE.contains(&row) {
        return Err(format!("it exits with {code}, and says {line}"));
    }
    let said = &played.ended.stderr;
    match (
        said.contains(words(how)),
        THINGS.iter().any(|thing| said.contains(thing)),
    ) {
        (true, true) => Ok(()),
        (false, _) => Err("it does not say why".to_owned()),
        (_, false) => Err("it does not say what failed".to_owned()),
    }
}
