//! One connection to an NBD server: any number of threads ask, one thread reads the answers and hands them out.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use cohort_nbd::{Client, Command, Content, Context, Request, Uri};

use super::answer::{Answer, Question};
use super::connect;
use crate::socket::{Socket, time_until};

/// A connection inside an export.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    pub(super) client: Client,
    /// Held while a request is sent, so that its header and its bytes stay together.
    sending: Mutex<()>,
    waiting: Mutex<Waiting>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    next_cookie: u64,
    questions: HashMap<u64, Question>,
    /// Why nothing will be answered any more.
    broken: Option<String>,
}

/// Why a request was not answered well.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The connection is lost; nobody knows what became of the request.
    Lost(String),
    /// The server said no.
    Refused(io::Error),
}

impl Wire {
    /// Connects and enters the export, until the deadline, to ask of ranges what these contexts say.
    pub(super) fn open(
        uri: &Uri,
        contexts: Vec<Context>,
        deadline: Instant,
    ) -> io::Result<Arc<Self>> {
        let socket = connect::reach(&uri.server, deadline)?;
        let client = connect::enter(&socket, uri, contexts, deadline)?;
        let wire = Arc::new(Self {
            socket,
            client,
            sending: Mutex::default(),
            waiting: Mutex::default(),
            answered: Condvar::new(),
        });
        let reader = wire.clone();
        thread::Builder::new()
            .name("nbd-client".into())
            .spawn(move || reader.read_answers())?;
        Ok(wire)
    }

    /// Asks, and waits for the answer. A server that has not answered by the deadline is given up.
    pub(super) fn ask(
        &self,
        command: Command,
        data: &[u8],
        deadline: Instant,
    ) -> Result<Answer, Unanswered> {
        let cookie = self.note(command)?;
        let mut head = Vec::with_capacity(32);
        let sent = match self.client.request(&Request { cookie, command }, &mut head) {
            Ok(()) => {
                let _turn = lock(&self.sending);
                time_until(deadline)
                    .and_then(|left| self.socket.set_write_timeout(Some(left)))
                    .and_then(|()| self.socket.write_all(&head, data))
            }
            Err(error) => {
                lock(&self.waiting).questions.remove(&cookie);
                return Err(Unanswered::Refused(io::Error::other(error)));
            }
        };
        if let Err(error) = sent {
            self.give_up(&format!("cannot send: {error}"));
        }
        let mut waiting = lock(&self.waiting);
        loop {
            if waiting
                .questions
                .get(&cookie)
                .is_some_and(|question| question.done)
            {
                break;
            }
            if let Some(why) = waiting.broken.clone() {
                waiting.questions.remove(&cookie);
                return Err(Unanswered::Lost(why));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(waiting);
                self.give_up("it did not answer in time");
                waiting = lock(&self.waiting);
                continue;
            }
            let wait = self.answered.wait_timeout(waiting, left);
            waiting = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        match waiting.questions.remove(&cookie) {
            Some(Question {
                failure: Some(error),
                ..
            }) => Err(Unanswered::Refused(error)),
            Some(question) => Ok(question.answer),
            None => Err(Unanswered::Lost("the answer was lost".into())),
        }
    }

    /// Says goodbye, and closes.
    pub(super) fn close(&self) {
        let mut goodbye = Vec::new();
        self.client.disconnect(&mut goodbye);
        let _ = self.socket.write_all(&goodbye, &[]);
        self.socket.goodbye();
        self.give_up("it was closed");
    }

    fn note(&self, command: Command) -> Result<u64, Unanswered> {
        let mut waiting = lock(&self.waiting);
        if let Some(why) = &waiting.broken {
            return Err(Unanswered::Lost(why.clone()));
        }
        let cookie = waiting.next_cookie;
        waiting.next_cookie += 1;
        let wanted = if let Command::Read { length, .. } = command {
            length
        } else {
            0
        };
        let bytes = vec![0; wanted as usize];
        let answer = Answer {
            bytes,
            runs: Vec::new(),
        };
        let question = Question {
            command,
            answer,
            filled: 0,
            failure: None,
            done: false,
        };
        waiting.questions.insert(cookie, question);
        Ok(cookie)
    }

    /// Nothing will be answered any more. The first reason stands.
    fn give_up(&self, why: &str) {
        self.socket.shutdown(Shutdown::Both);
        lock(&self.waiting)
            .broken
            .get_or_insert_with(|| why.to_owned());
        self.answered.notify_all();
    }

    fn read_answers(&self) {
        let mut payload = Vec::new();
        loop {
            if let Err(error) = self.read_answer(&mut payload) {
                let ended = error.kind() == io::ErrorKind::UnexpectedEof;
                let why = error.to_string();
                return self.give_up(if ended {
                    "the server closed the connection"
                } else {
                    &why
                });
            }
        }
    }

    fn read_answer(&self, payload: &mut Vec<u8>) -> io::Result<()> {
        let mut head = [0; 32];
        self.socket.read_exact(&mut head[..4])?;
        let first = [head[0], head[1], head[2], head[3]];
        let length = self.client.head_length(first).map_err(io::Error::other)?;
        self.socket.read_exact(&mut head[4..length])?;
        let head = self
            .client
            .head(&head[..length])
            .map_err(io::Error::other)?;
        payload.resize(head.payload as usize, 0);
        self.socket.read_exact(payload)?;
        let content = head.content(payload).map_err(io::Error::other)?;
        let mut waiting = lock(&self.waiting);
        let unasked = || io::Error::other("the server answered what was not asked");
        let question = waiting
            .questions
            .get_mut(&head.cookie)
            .ok_or_else(unasked)?;
        if let (Content::Done, Command::Read { .. }, false) =
            (&content, question.command, self.in_pieces())
        {
            // The bytes follow a simple reply. Nobody else reads from the socket meanwhile.
            let mut bytes = std::mem::take(&mut question.answer.bytes);
            drop(waiting);
            self.socket.read_exact(&mut bytes)?;
            waiting = lock(&self.waiting);
            let question = waiting
                .questions
                .get_mut(&head.cookie)
                .ok_or_else(unasked)?;
            question.filled = bytes.len() as u64;
            question.answer.bytes = bytes;
            question.done = true;
        } else {
            question.take(content).map_err(io::Error::other)?;
            if head.last {
                question.end().map_err(io::Error::other)?;
            }
        }
        drop(waiting);
        self.answered.notify_all();
        Ok(())
    }

    fn in_pieces(&self) -> bool {
        self.client.mode() > cohort_nbd::Mode::Simple
    }
}

/// What is guarded here is sound after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
