//! What came into each group and what the core made of it, for replay: the hook and its text form.
//!
//! The core is pure, so the inputs of a group are all that is needed to have its life again: a recording
//! made in production replays in the simulator (`docs/simulator.md`). An engine without a recorder pays
//! one comparison a turn.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use crate::core::{Action, Event, Request};
use crate::{Refused, TxnId};

/// What comes into a core, by either door.
///
/// Example: [`TextRecorder`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// Users' door.
    Ask(Request),
    /// Workers' door.
    Tell(Event),
}

/// Listens to every turn of every group.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use cohort_job::core::Action;
/// use cohort_job::{Engine, Input, JobSpec, Recorder, Refused, Step, TxnId, from_fn};
///
/// /// How many requests were refused.
/// #[derive(Default)]
/// struct Refusals(AtomicUsize);
///
/// impl Recorder for Refusals {
///     fn turn(&self, _: TxnId, _: &[Input], came: Result<&[Action], Refused>) {
///         self.0.fetch_add(usize::from(came.is_err()), Ordering::Relaxed);
///     }
/// }
///
/// let refusals = Arc::new(Refusals::default());
/// let engine = Engine::builder().recorder(refusals.clone()).build()?;
/// let job = engine.launch(JobSpec::new("j"), from_fn(|_| Step::Wait("waits for nothing")))?;
/// assert!(job.resume().is_err());
/// assert_eq!(refusals.0.load(Ordering::Relaxed), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Recorder: Send + Sync {
    /// One turn: what came in, in order, and what the core ordered; or why it refused, and then nothing
    /// changed. Turns of one group come in their order, those of different groups in any.
    ///
    /// Called under the group's lock: it must be short, and must not call the engine.
    fn turn(&self, group: TxnId, inputs: &[Input], came: Result<&[Action], Refused>);
}

/// Writes each turn as text, one line for each input and each action:
///
/// ```text
/// #1 ask launch
/// #1 does status 0..2 running
/// #1 does run step 0..2
/// #1 tell spawned 0 2
/// #1 also ran step 0..1 wait
/// #1 ask finalize 0
/// #1 refused cannot finalize in status 'running': finalize is accepted in pending
/// ```
///
/// `also` is one more input of the same turn. Read back with [`Line::parse`].
///
/// ```
/// use std::io::{BufRead, BufReader, pipe};
/// use std::sync::Arc;
/// use cohort_job::core::Request;
/// use cohort_job::{Engine, Input, JobSpec, Line, Said, Step, TextRecorder, from_fn};
///
/// let (reader, writer) = pipe()?;
/// let engine = Engine::builder().recorder(Arc::new(TextRecorder::new(writer))).build()?;
/// engine.run(JobSpec::new("j"), from_fn(|_| Step::done()))?;
/// drop(engine);
/// let mut launches = 0;
/// // The pipe ends when the last of the engine's threads has gone.
/// for line in BufReader::new(reader).lines() {
///     let line = Line::parse(&line?)?;
///     launches += u32::from(line.said == Said::Input(Input::Ask(Request::Launch)));
/// }
/// assert_eq!(launches, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TextRecorder<W>(Mutex<Sink<W>>);

#[derive(Debug)]
struct Sink<W> {
    writer: W,
    error: Option<io::Error>,
}

impl<W: Write> TextRecorder<W> {
    /// Writes to `writer`, which should be buffered.
    pub fn new(writer: W) -> Self {
        Self(Mutex::new(Sink {
            writer,
            error: None,
        }))
    }

    /// Flushes, and gives back the writer. What was recorded ends at the first line that could not be
    /// written: the jobs went on.
    ///
    /// ```
    /// use cohort_job::TextRecorder;
    ///
    /// let recorder = TextRecorder::new(Vec::new());
    /// assert_eq!(recorder.finish()?, b"");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// The first error of the writer.
    pub fn finish(self) -> io::Result<W> {
        let mut sink = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = sink.error {
            return Err(error);
        }
        sink.writer.flush()?;
        Ok(sink.writer)
    }
}

impl<W: Write + Send> Recorder for TextRecorder<W> {
    fn turn(&self, group: TxnId, inputs: &[Input], came: Result<&[Action], Refused>) {
        // In one piece, so that what is read while it grows ends with a whole turn.
        let text = text_of(group, inputs, came);
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sink.error.is_none() {
            sink.error = sink.writer.write_all(text.as_bytes()).err();
        }
    }
}

fn text_of(group: TxnId, inputs: &[Input], came: Result<&[Action], Refused>) -> String {
    let mut text = String::new();
    let mut line = |word: &str, what: &dyn Display| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{group} {word} {what}");
    };
    for (at, input) in inputs.iter().enumerate() {
        match input {
            Input::Ask(request) => line("ask", request),
            Input::Tell(event) if at == 0 => line("tell", event),
            Input::Tell(event) => line("also", event),
        }
    }
    match came {
        Ok(actions) => actions.iter().for_each(|action| line("does", action)),
        Err(refused) => line("refused", &refused),
    }
    text
}

/// One line of a recording.
///
/// Example: [`TextRecorder`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The group's number, as in its [`TxnId`]; unique within a recording.
    pub group: u64,
    /// What the line says.
    pub said: Said,
}

/// What a line of a recording says.
///
/// Example: [`TextRecorder`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A turn begins with this input.
    Input(Input),
    /// One more event of the turn.
    Also(Event),
    /// The core ordered this; in the words of [`Action`]'s `Display`.
    Does(String),
    /// The core refused; in the words of [`Refused`]'s `Display`.
    Refused(String),
}

/// Why a line is none of a recording.
///
/// Example: [`TextRecorder`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a recording ({what}): '{line}'")]
pub struct InvalidLine {
    /// The line.
    pub line: String,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Line {
    /// Reads one line.
    ///
    /// # Errors
    /// [`InvalidLine`] says which, and what is wrong with it.
    pub fn parse(line: &str) -> Result<Self, InvalidLine> {
        let wrong = |what| InvalidLine {
            line: line.to_owned(),
            what,
        };
        let mut parts = line.splitn(3, ' ');
        let mut part = || parts.next().ok_or_else(|| wrong("it ends too early"));
        let number = part()?.strip_prefix('#').and_then(|text| text.parse().ok());
        let group = number.ok_or_else(|| wrong("a group's number is missing"))?;
        let (word, rest) = (part()?, part()?);
        let said = match word {
            "ask" => Said::Input(Input::Ask(rest.parse().map_err(wrong)?)),
            "tell" => Said::Input(Input::Tell(rest.parse().map_err(wrong)?)),
            "also" => Said::Also(rest.parse().map_err(wrong)?),
            "does" => Said::Does(rest.to_owned()),
            "refused" => Said::Refused(rest.to_owned()),
            _ => return Err(wrong("neither ask, tell, also, does nor refused")),
        };
        Ok(Self { group, said })
    }
}
