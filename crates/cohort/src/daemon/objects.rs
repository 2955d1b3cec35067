//! Objects beside the graph: limits that nodes share, secrets.

use std::fmt;
use std::sync::Arc;

use cohort_block::{Limits, Rates, Throttle};
use cohort_qmp::{Error, ObjectKind, ObjectOptions, ThrottleLimits};

use super::nodes::is_identifier;
use super::{Answer, Daemon, generic, nothing};

/// An object, by its id.
#[derive(Clone)]
pub(super) enum Object {
    /// Limits for throttle nodes.
    ThrottleGroup(Arc<Throttle>),
    /// Something that nobody shall read. No node asks for one, so only its id is kept.
    Secret,
    /// A thread for requests, which here every node has.
    Iothread,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ThrottleGroup(_) => "ThrottleGroup",
            Self::Secret => "Secret",
            Self::Iothread => "Iothread",
        })
    }
}

/// The most that a limit may be.
const FASTEST: u64 = 1_000_000_000_000_000;

/// What clients ask for, if that is something.
fn limits_of(asked: ThrottleLimits) -> Result<Limits, Error> {
    let rate = |asked: Option<i64>| {
        let rate = u64::try_from(asked.unwrap_or(0)).ok();
        let text = || format!("bps/iops/max values must be within [0, {FASTEST}]");
        rate.filter(|rate| *rate <= FASTEST)
            .ok_or_else(|| Error::generic(text()))
    };
    let rates = |total, read, write| {
        Ok(Rates {
            total: rate(total)?,
            read: rate(read)?,
            write: rate(write)?,
        })
    };
    let limits = Limits {
        bytes: rates(asked.bps_total, asked.bps_read, asked.bps_write)?,
        requests: rates(asked.iops_total, asked.iops_read, asked.iops_write)?,
    };
    let both = |rates: Rates| rates.total > 0 && rates.read.max(rates.write) > 0;
    if both(limits.bytes) || both(limits.requests) {
        return generic(
            "bps/iops/max total values and read/write values cannot be used at the same time",
        );
    }
    Ok(limits)
}

impl Daemon {
    pub(super) fn object_add(&self, options: ObjectOptions) -> Answer {
        let ObjectOptions { id, object } = options;
        if !is_identifier(&id) {
            return generic("Parameter 'id' expects an identifier");
        }
        let mut graph = self.graph();
        if graph.objects.contains_key(&id) {
            return generic(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            ));
        }
        let object = match object {
            ObjectKind::Iothread(_) => Object::Iothread,
            ObjectKind::ThrottleGroup(group) => {
                let limits = group.limits.map_or(Ok(Limits::default()), limits_of)?;
                Object::ThrottleGroup(Arc::new(Throttle::new(limits)))
            }
            ObjectKind::Secret(secret) => {
                match (secret.data, secret.file) {
                    (Some(_), None) => {}
                    (None, Some(file)) => self.can_be_read(&file)?,
                    (Some(_), Some(_)) => {
                        return generic("'file' and 'data' are mutually exclusive");
                    }
                    (None, None) => return generic("Either 'file' or 'data' must be provided"),
                }
                Object::Secret
            }
        };
        graph.objects.insert(id, object);
        nothing()
    }

    fn can_be_read(&self, file: &str) -> Result<(), Error> {
        let path = self.restrict.check(file)?;
        let read = std::fs::read_to_string(path);
        let text = |error| Error::generic(format!("Unable to read {file}: {error}"));
        read.map(drop).map_err(text)
    }

    pub(super) fn object_del(&self, id: &str) -> Answer {
        let mut graph = self.graph();
        let Some(object) = graph.objects.get(id) else {
            return generic(format!("object '{id}' not found"));
        };
        if let Object::ThrottleGroup(throttle) = object
            && Arc::strong_count(throttle) > 1
        {
            return generic(format!("object '{id}' is in use, can not be deleted"));
        }
        graph.objects.remove(id);
        nothing()
    }
}
