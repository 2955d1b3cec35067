//! The core's vocabulary as text, one line each: written for requests, events and actions, read back for what
//! comes in.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use crate::core::{Action, Event, Notice, Order, Report, Request};
use crate::{Asked, Cause, Disposition, Error, Hooks, Outcome, Spec, Time, Verdict};

const HOOKS: [(Hooks, &str); 4] = [
    (Hooks::PREPARE, "prepare"),
    (Hooks::COMMIT, "commit"),
    (Hooks::ABORT, "abort"),
    (Hooks::CLEAN, "clean"),
];

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { count, spec } => {
                write!(f, "add {count}")?;
                if spec.manual_finalize {
                    write!(f, " manual-finalize")?;
                }
                if spec.manual_dismiss {
                    write!(f, " manual-dismiss")?;
                }
                let has = |hook: &&(Hooks, &str)| spec.hooks.has(hook.0);
                HOOKS
                    .iter()
                    .filter(has)
                    .try_for_each(|(_, word)| write!(f, " {word}"))
            }
            Self::Launch => f.write_str("launch"),
            Self::Rollback => f.write_str("rollback"),
            Self::Replay(verdict) => write!(f, "replay {}", Words(verdict)),
            Self::Cancel(member, how) => write!(f, "cancel {member} {}", word_of(*how)),
            Self::CancelAll(cause, how) => {
                write!(f, "cancel-all {} {}", Words(cause), word_of(*how))
            }
            Self::Pause(member) => write!(f, "pause {member}"),
            Self::Resume(member) => write!(f, "resume {member}"),
            Self::Hold(member) => write!(f, "hold {member}"),
            Self::Release(member) => write!(f, "release {member}"),
            Self::SetSpeed { member, raises } => {
                let word = if *raises { "up" } else { "down" };
                write!(f, "set-speed {member} {word}")
            }
            Self::Complete(member) => write!(f, "complete {member}"),
            Self::Finalize(member) => write!(f, "finalize {member}"),
            Self::Dismiss(member) => write!(f, "dismiss {member}"),
            Self::GiveUp(member) => write!(f, "give-up {member}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ran {
                order,
                members,
                report,
            } => write!(f, "ran {order} {members:?} {}", Words(report)),
            Self::Spawned { member, tasks } => write!(f, "spawned {member} {tasks}"),
            Self::TaskEnded(member) => write!(f, "task-ended {member}"),
            Self::TaskPanicked(member, error) => {
                write!(f, "task-panicked {member} {}", Words(error))
            }
            Self::Woken(member) => write!(f, "woken {member}"),
            Self::Ready(member) => write!(f, "ready {member}"),
            Self::Stuck(member) => write!(f, "stuck {member}"),
            Self::Decided(Ok(())) => f.write_str("decided well"),
            Self::Decided(Err(error)) => write!(f, "decided badly {}", Words(error)),
            Self::Continue => f.write_str("continue"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { order, members } => write!(f, "run {order} {members:?}"),
            Self::Hold(span) => write!(f, "hold {span:?}"),
            Self::Release(span) => write!(f, "release {span:?}"),
            Self::Stop(span) => write!(f, "stop {span:?}"),
            Self::Ask(span, asked) => {
                let word = match asked {
                    Asked::Run => "run",
                    Asked::Complete => "complete",
                    Asked::Finish => "finish",
                };
                write!(f, "ask {span:?} {word}")
            }
            Self::WakeAt(span, time) => write!(f, "wake-at {span:?} {}", time.0.as_nanos()),
            Self::Decide(verdict) => write!(f, "decide {}", Words(verdict)),
            Self::Notify(notice) => write!(f, "notify {notice}"),
            Self::Continue => f.write_str("continue"),
            Self::Ended { owed: false } => f.write_str("end"),
            Self::Ended { owed: true } => f.write_str("end owed"),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(span, status) => write!(f, "{span:?} {status}"),
            Self::Ended(span, outcome) => write!(f, "{span:?} ended {}", Words(outcome)),
            Self::Failed(member, error) => write!(f, "{member} failed {}", Words(error)),
            Self::Stuck(member) => write!(f, "{member} stuck"),
            Self::GivenUp(member) => write!(f, "{member} given-up"),
            Self::Decided(verdict) => write!(f, "decided {}", Words(verdict)),
            Self::InDoubt(error) => write!(f, "in-doubt {}", Words(error)),
            Self::Owed(member, order, error) => {
                write!(f, "{member} owed {order} {}", Words(error))
            }
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Step => "step",
            Self::Prepare => "prepare",
            Self::Commit => "commit",
            Self::Abort => "abort",
            Self::Clean => "clean",
        })
    }
}

/// What users read elsewhere in sentences, as the words of a line.
struct Words<'a, T>(&'a T);

impl fmt::Display for Words<'_, Report> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Report::Again => f.write_str("again"),
            Report::Sleep(time) => write!(f, "sleep {}", time.0.as_nanos()),
            Report::Wait => f.write_str("wait"),
            Report::Done => f.write_str("done"),
            Report::Failed(error) => write!(f, "failed {}", Words(error)),
            Report::Panicked(error) => write!(f, "panicked {}", Words(error)),
            Report::Left => f.write_str("left"),
        }
    }
}

impl fmt::Display for Words<'_, Verdict> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Verdict::Commit => f.write_str("commit"),
            Verdict::Abort { cause, disposition } => {
                write!(f, "abort {} {}", Words(cause), word_of(*disposition))
            }
        }
    }
}

impl fmt::Display for Words<'_, Cause> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Cause::Failed(member) => write!(f, "failed:{member}"),
            Cause::Cancelled(member) => write!(f, "cancelled:{member}"),
            Cause::User => f.write_str("user"),
            Cause::Rollback => f.write_str("rollback"),
            Cause::Shutdown => f.write_str("shutdown"),
            Cause::ProcessEnded => f.write_str("process-ended"),
        }
    }
}

impl fmt::Display for Words<'_, Outcome> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::Committed { short: false } => f.write_str("committed"),
            Outcome::Committed { short: true } => f.write_str("committed short"),
            Outcome::Failed { error, disposition } => {
                write!(f, "failed {} {}", word_of(*disposition), Words(error))
            }
            Outcome::Cancelled { cause, disposition } => {
                write!(f, "cancelled {} {}", Words(cause), word_of(*disposition))
            }
        }
    }
}

/// The rest of a line, whatever the message holds. Sources are told, and are not told apart when read.
impl fmt::Display for Words<'_, Error> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.to_string().chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                _ => write!(f, "{letter}")?,
            }
        }
        Ok(())
    }
}

fn word_of(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Keep => "keep",
        Disposition::Discard => "discard",
    }
}

/// Reads a line word by word.
struct Reader<'a>(&'a str);

type Read<T> = Result<T, &'static str>;

impl<'a> Reader<'a> {
    /// The next word; empty at the end.
    fn word(&mut self) -> &'a str {
        let (word, rest) = self.0.split_once(' ').unwrap_or((self.0, ""));
        self.0 = rest;
        word
    }

    fn number<T: FromStr>(&mut self) -> Read<T> {
        self.word().parse().map_err(|_| "a number is missing")
    }

    fn span(&mut self) -> Read<Range<u32>> {
        let (start, end) = self.word().split_once("..").ok_or("a span is missing")?;
        let bound = |text: &str| text.parse::<u32>().map_err(|_| "a bound is no number");
        let span = bound(start)?..bound(end)?;
        if span.is_empty() {
            return Err("a span is empty");
        }
        Ok(span)
    }

    fn time(&mut self) -> Read<Time> {
        Ok(Time(Duration::from_nanos(self.number()?)))
    }

    fn disposition(&mut self) -> Read<Disposition> {
        match self.word() {
            "keep" => Ok(Disposition::Keep),
            "discard" => Ok(Disposition::Discard),
            _ => Err("neither keep nor discard"),
        }
    }

    fn cause(&mut self) -> Read<Cause> {
        let word = self.word();
        let member = |text: &str| text.parse().map_err(|_| "a cause names no member");
        Ok(match word.split_once(':') {
            Some(("failed", text)) => Cause::Failed(member(text)?),
            Some(("cancelled", text)) => Cause::Cancelled(member(text)?),
            _ => match word {
                "user" => Cause::User,
                "rollback" => Cause::Rollback,
                "shutdown" => Cause::Shutdown,
                "process-ended" => Cause::ProcessEnded,
                _ => return Err("no cause"),
            },
        })
    }

    fn verdict(&mut self) -> Read<Verdict> {
        match self.word() {
            "commit" => Ok(Verdict::Commit),
            "abort" => Ok(Verdict::Abort {
                cause: self.cause()?,
                disposition: self.disposition()?,
            }),
            _ => Err("neither commit nor abort"),
        }
    }

    fn order(&mut self) -> Read<Order> {
        let word = self.word();
        let orders = [
            Order::Step,
            Order::Prepare,
            Order::Commit,
            Order::Abort,
            Order::Clean,
        ];
        let found = orders.into_iter().find(|order| order.to_string() == word);
        found.ok_or("no order")
    }

    /// The rest of the line.
    fn error(&mut self) -> Error {
        let mut message = String::new();
        let mut letters = std::mem::take(&mut self.0).chars();
        while let Some(letter) = letters.next() {
            message.push(match letter {
                '\\' => match letters.next() {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    other => other.unwrap_or('\\'),
                },
                _ => letter,
            });
        }
        Error::new(message)
    }

    fn report(&mut self) -> Read<Report> {
        Ok(match self.word() {
            "again" => Report::Again,
            "sleep" => Report::Sleep(self.time()?),
            "wait" => Report::Wait,
            "done" => Report::Done,
            "failed" => Report::Failed(self.error()),
            "panicked" => Report::Panicked(self.error()),
            "left" => Report::Left,
            _ => return Err("no report"),
        })
    }

    fn spec(&mut self) -> Read<Spec> {
        let mut spec = Spec::default();
        loop {
            let word = self.word();
            match word {
                "" => return Ok(spec),
                "manual-finalize" => spec.manual_finalize = true,
                "manual-dismiss" => spec.manual_dismiss = true,
                _ => {
                    let hook = HOOKS.iter().find(|(_, name)| *name == word);
                    spec.hooks = spec.hooks.and(hook.ok_or("no hook")?.0);
                }
            }
        }
    }

    /// Nothing may be left over.
    fn end<T>(self, value: T) -> Read<T> {
        match self.0 {
            "" => Ok(value),
            _ => Err("there is more than belongs there"),
        }
    }
}

impl FromStr for Request {
    type Err = &'static str;

    fn from_str(text: &str) -> Read<Self> {
        let mut read = Reader(text);
        let request = match read.word() {
            "add" => Self::Add {
                count: read.number()?,
                spec: read.spec()?,
            },
            "launch" => Self::Launch,
            "rollback" => Self::Rollback,
            "replay" => Self::Replay(read.verdict()?),
            "cancel" => Self::Cancel(read.number()?, read.disposition()?),
            "cancel-all" => Self::CancelAll(read.cause()?, read.disposition()?),
            "pause" => Self::Pause(read.number()?),
            "resume" => Self::Resume(read.number()?),
            "hold" => Self::Hold(read.number()?),
            "release" => Self::Release(read.number()?),
            "set-speed" => Self::SetSpeed {
                member: read.number()?,
                raises: match read.word() {
                    "up" => true,
                    "down" => false,
                    _ => return Err("neither up nor down"),
                },
            },
            "complete" => Self::Complete(read.number()?),
            "finalize" => Self::Finalize(read.number()?),
            "dismiss" => Self::Dismiss(read.number()?),
            "give-up" => Self::GiveUp(read.number()?),
            _ => return Err("no request"),
        };
        read.end(request)
    }
}

impl FromStr for Event {
    type Err = &'static str;

    fn from_str(text: &str) -> Read<Self> {
        let mut read = Reader(text);
        let event = match read.word() {
            "ran" => Self::Ran {
                order: read.order()?,
                members: read.span()?,
                report: read.report()?,
            },
            "spawned" => Self::Spawned {
                member: read.number()?,
                tasks: read.number()?,
            },
            "task-ended" => Self::TaskEnded(read.number()?),
            "task-panicked" => Self::TaskPanicked(read.number()?, read.error()),
            "woken" => Self::Woken(read.number()?),
            "ready" => Self::Ready(read.number()?),
            "stuck" => Self::Stuck(read.number()?),
            "decided" => match read.word() {
                "well" => Self::Decided(Ok(())),
                "badly" => Self::Decided(Err(read.error())),
                _ => return Err("neither well nor badly"),
            },
            "continue" => Self::Continue,
            _ => return Err("no event"),
        };
        read.end(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let error = || Error::new("no space\nleft \\ on 'a'");
        let spec = Spec {
            manual_finalize: true,
            manual_dismiss: false,
            hooks: Hooks::COMMIT.and(Hooks::CLEAN),
        };
        let requests = [
            Request::Add { count: 3, spec },
            Request::Replay(Verdict::Abort {
                cause: Cause::Failed(2),
                disposition: Disposition::Discard,
            }),
            Request::Cancel(4, Disposition::Keep),
            Request::CancelAll(Cause::Shutdown, Disposition::Keep),
            Request::SetSpeed {
                member: 1,
                raises: false,
            },
        ];
        for request in requests {
            assert_eq!(request.to_string().parse(), Ok(request));
        }
        let ran = |order, report| Event::Ran {
            order,
            members: 2..5,
            report,
        };
        let events = [
            ran(
                Order::Step,
                Report::Sleep(Time(Duration::from_nanos(1_234))),
            ),
            ran(Order::Prepare, Report::Failed(error())),
            ran(Order::Clean, Report::Panicked(error())),
            Event::Decided(Err(error())),
            Event::TaskPanicked(7, error()),
            Event::Continue,
        ];
        for event in events {
            let text = event.to_string();
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(text.parse(), Ok(event));
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for text in [
            "",
            "pause",
            "pause x",
            "pause 1 2",
            "cancel 1",
            "add 1 hook",
        ] {
            assert!(text.parse::<Request>().is_err(), "{text}");
        }
        for text in [
            "ran step 0..0 done",
            "ran step 3 done",
            "decided",
            "woken -1",
        ] {
            assert!(text.parse::<Event>().is_err(), "{text}");
        }
    }
}
