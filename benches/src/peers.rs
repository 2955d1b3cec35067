//! What people write themselves, and what else is there: the same jobs, as each would run them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use steno::{ActionContext, ActionError, ActionFunc, ActionRegistry, DagBuilder, Node, SagaName};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ours::work;

/// `rayon::scope` with a flag that a failure sets.
pub fn rayon_scope(pool: &rayon::ThreadPool, jobs: usize, last_fails: bool) {
    let cancelled = AtomicBool::new(false);
    let cancelled = &cancelled;
    pool.scope(|scope| {
        for job in 0..jobs {
            scope.spawn(move |_| {
                if cancelled.load(Ordering::Relaxed) {
                    return;
                }
                work();
                if last_fails && job + 1 == jobs {
                    cancelled.store(true, Ordering::Relaxed);
                }
            });
        }
    });
}

/// tokio's `JoinSet`, with a `CancellationToken` that a failure cancels.
///
/// # Panics
/// If a task does.
pub fn join_set(runtime: &Runtime, jobs: usize, last_fails: bool) {
    runtime.block_on(async {
        let token = CancellationToken::new();
        let mut set = JoinSet::new();
        for job in 0..jobs {
            let token = token.clone();
            set.spawn(async move {
                if token.is_cancelled() {
                    return Err("cancelled");
                }
                work();
                if last_fails && job + 1 == jobs {
                    return Err("told to");
                }
                Ok(())
            });
        }
        let mut failed = false;
        while let Some(ended) = set.join_next().await {
            if ended.expect("no task panics").is_err() {
                token.cancel();
                failed = true;
            }
        }
        assert_eq!(failed, last_fails);
    });
}

/// As many tokio tasks that wait for the token, while `look` looks; then they are cancelled.
///
/// # Panics
/// If a task does.
pub fn join_set_idle(runtime: &Runtime, jobs: usize, look: impl FnOnce()) {
    runtime.block_on(async {
        let token = CancellationToken::new();
        let mut set = JoinSet::new();
        for _ in 0..jobs {
            let token = token.clone();
            set.spawn(async move { token.cancelled().await });
        }
        tokio::task::yield_now().await;
        look();
        token.cancel();
        while let Some(ended) = set.join_next().await {
            ended.expect("no task panics");
        }
    });
}

/// Counts sagas, for their ids.
static SAGAS: AtomicU64 = AtomicU64::new(1);

#[derive(Debug)]
struct Saga;

impl steno::SagaType for Saga {
    type ExecContextType = ();
}

async fn act(_: ActionContext<Saga>) -> Result<(), ActionError> {
    work();
    Ok(())
}

async fn refuse(_: ActionContext<Saga>) -> Result<(), ActionError> {
    Err(ActionError::action_failed(String::from("told to")))
}

async fn undo(_: ActionContext<Saga>) -> Result<(), anyhow::Error> {
    Ok(())
}

/// One saga of parallel actions, each with its undo, in steno's store in memory.
///
/// # Panics
/// If steno refuses the saga.
pub fn saga(runtime: &Runtime, jobs: usize, last_fails: bool) {
    let good = ActionFunc::new_action("act", act, undo);
    let bad = ActionFunc::new_action("refuse", refuse, undo);
    let mut registry = ActionRegistry::new();
    registry.register(Arc::clone(&good));
    registry.register(Arc::clone(&bad));
    let node = |job: usize| {
        let fails = last_fails && job + 1 == jobs;
        let action = if fails { &bad } else { &good };
        Node::action(format!("job-{job}"), "job", &**action)
    };
    let mut builder = DagBuilder::new(SagaName::new("bench"));
    builder.append_parallel((0..jobs).map(node).collect());
    // A saga has one output.
    builder.append(Node::constant("end", serde_json::Value::Null));
    let dag = builder.build().expect("a graph");
    let dag = Arc::new(steno::SagaDag::new(dag, serde_json::Value::Null));
    runtime.block_on(async {
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let sec = steno::sec(log, Arc::new(steno::InMemorySecStore::new()));
        let number = SAGAS.fetch_add(1, Ordering::Relaxed);
        let id: steno::SagaId = format!("{number:032x}").parse().expect("an id");
        let result = sec
            .saga_create(id, Arc::new(()), dag, Arc::new(registry))
            .await
            .expect("a saga");
        sec.saga_start(id).await.expect("it starts");
        assert_eq!(result.await.kind.is_ok(), !last_fails);
        sec.shutdown().await;
    });
}

/// A `qemu-storage-daemon` with null devices, spoken to over QMP.
#[derive(Debug)]
pub struct StorageDaemon {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    jobs: usize,
}

impl StorageDaemon {
    /// One with a source and a target for so many jobs; none if it is not installed.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn start(jobs: usize) -> std::io::Result<Option<Self>> {
        let Some(mut daemon) = Self::spawn(&[])? else {
            return Ok(None);
        };
        daemon.jobs = jobs;
        for job in 0..jobs {
            for side in ["s", "t"] {
                daemon.call(&format!(
                    r#"{{"execute":"blockdev-add","arguments":{{"driver":"null-co","node-name":"{side}{job}","size":65536,"read-zeroes":true}}}}"#
                ))?;
            }
        }
        Ok(Some(daemon))
    }

    /// One without any node; none if it is not installed.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn empty() -> std::io::Result<Option<Self>> {
        Self::spawn(&[])
    }

    /// One with these options and no job; none if it is not installed.
    pub(crate) fn spawn(options: &[String]) -> std::io::Result<Option<Self>> {
        let spawned = Command::new("qemu-storage-daemon")
            .args(["--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = spawned else {
            return Ok(None);
        };
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Ok(None);
        };
        let mut daemon = Self {
            child,
            input,
            output: BufReader::new(output),
            jobs: 0,
        };
        daemon.call(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(Some(daemon))
    }

    /// Adds a node over a file.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn add_node(
        &mut self,
        name: &str,
        format: &str,
        file: &Path,
        read_only: bool,
    ) -> std::io::Result<()> {
        let file = file.display();
        self.call(&format!(
            r#"{{"execute":"blockdev-add","arguments":{{"driver":"{format}","node-name":"{name}","read-only":{read_only},"file":{{"driver":"file","filename":"{file}","read-only":{read_only}}}}}}}"#
        ))
    }

    /// Backs up node `s` to node `t` with these further arguments, and takes `t` away, which flushes its tables.
    ///
    /// # Errors
    /// If it refuses or fails.
    pub fn back_up(&mut self, arguments: &str) -> std::io::Result<()> {
        writeln!(
            self.input,
            r#"{{"execute":"blockdev-backup","arguments":{{"job-id":"j","device":"s","target":"t",{arguments}}}}}"#
        )?;
        while !self.line()?.contains(r#""status": "null""#) {}
        self.call(r#"{"execute":"blockdev-del","arguments":{"node-name":"t"}}"#)
    }

    /// One grouped transaction of backups, until the last has completed.
    ///
    /// # Errors
    /// If the daemon went away or refuses.
    pub fn run(&mut self) -> std::io::Result<Duration> {
        let action = |job: usize| {
            format!(
                r#"{{"type":"blockdev-backup","data":{{"job-id":"j{job}","device":"s{job}","target":"t{job}","sync":"full"}}}}"#
            )
        };
        let actions: Vec<String> = (0..self.jobs).map(action).collect();
        let command = format!(
            r#"{{"execute":"transaction","arguments":{{"actions":[{}],"properties":{{"completion-mode":"grouped"}}}}}}"#,
            actions.join(",")
        );
        let begin = Instant::now();
        writeln!(self.input, "{command}")?;
        // A job is gone, and its name free, when it has become null.
        let mut gone = 0;
        while gone < self.jobs {
            let line = self.line()?;
            gone += usize::from(line.contains(r#""status": "null""#));
        }
        Ok(begin.elapsed())
    }

    /// The number of its process.
    pub fn process(&self) -> String {
        self.child.id().to_string()
    }

    /// The most memory it had resident so far, in bytes.
    pub fn resident_bytes(&self) -> Option<usize> {
        crate::status_bytes(&self.process(), "VmHWM")
    }

    /// One command that answers at once.
    ///
    /// # Errors
    /// If it refuses.
    pub fn call(&mut self, command: &str) -> std::io::Result<()> {
        writeln!(self.input, "{command}")?;
        while !self.line()?.contains(r#""return""#) {}
        Ok(())
    }

    /// What it says next.
    pub(crate) fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 || line.contains(r#""error":"#) {
            return Err(std::io::Error::other(format!("the daemon says {line:?}")));
        }
        Ok(line)
    }
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        // Its own end would wait for its input to close, which it does only after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
