//! `cohort serve`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Format, Output};

/// `cohort serve`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("where").required(true).multiple(true))]
pub(crate) struct Serve {
    /// Disks: files or block devices, raw or qcow2; or a backup directory and points in it. With --qmp there need be none.
    #[arg(
        required_unless_present = "qmp",
        value_name = "[NAME=]DISK | DIR DISK@POINT"
    )]
    pub(crate) disks: Vec<String>,
    /// Listen at this unix socket, which only its owner may use. What a dead process left there is replaced.
    #[arg(long, value_name = "PATH", group = "where")]
    pub(crate) socket: Option<PathBuf>,
    /// Listen at this address, such as 127.0.0.1:10809; without --tls-certificates there is no encryption and no password.
    #[arg(long, value_name = "ADDRESS:PORT", group = "where")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Serve only encrypted connections, to clients that show a certificate: with server-cert.pem, server-key.pem and
    /// ca-cert.pem in this folder, which is as QEMU, nbdkit and libnbd have it.
    #[arg(long, value_name = "DIR")]
    pub(crate) tls_certificates: Option<PathBuf>,
    /// Serve clients that do not encrypt, too.
    #[arg(long, requires = "tls_certificates")]
    pub(crate) tls_optional: bool,
    /// Ask clients for no certificate.
    #[arg(long, requires = "tls_certificates")]
    pub(crate) tls_anyone: bool,
    /// Take commands over QMP at this unix socket, which only its owner may use: QEMU's for nodes, bitmaps, backups and
    /// jobs. Disks that are named become nodes of that name, and with --socket or --listen they are exported, too.
    #[arg(long, value_name = "PATH", group = "where")]
    pub(crate) qmp: Option<PathBuf>,
    /// Let QMP clients have nothing opened or made outside this folder.
    #[arg(long, value_name = "DIR", requires = "qmp")]
    pub(crate) restrict: Option<PathBuf>,
    /// Remember in this directory what QMP clients add: nodes, bitmaps, exports, the NBD server, jobs. The next server with
    /// it, whether this one ended in order or was killed, has them again. Disks and sockets of the command line are as that
    /// says each time, and win over what would take their names.
    #[arg(long, value_name = "DIR", requires = "qmp")]
    pub(crate) state: Option<PathBuf>,
    /// Tell metrics in Prometheus's text format at this unix socket, which only its owner may use, or at an address with its
    /// port, such as 127.0.0.1:9470, to whoever reaches it: GET /metrics.
    #[arg(long, value_name = "PATH|ADDRESS:PORT")]
    pub(crate) metrics: Option<crate::metrics::Address>,
    /// Let nothing be written.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// What the record of changes beside each disk that is written to, DISK.cohort, survives: kill (the server's end by
    /// whatever means; the default), power (that of the machine, too; a first write to a place waits for it), or off (none is
    /// kept). A backup of the disk goes by that record instead of comparing.
    #[arg(long, value_enum, value_name = "MODE", conflicts_with = "read_only")]
    pub(crate) track: Option<Track>,
    /// Take the disks for this format instead of looking at their first bytes: for raw disks that guests write to.
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Serve at most this many clients at once.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub(crate) max_connections: usize,
    /// Hold at most this many bytes for large requests of all clients together; K, M and G are powers of 1024.
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = crate::human::parse_bytes)]
    pub(crate) memory: u64,
    /// When asked to stop, wait at most this many seconds for requests under way.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) drain: u64,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What the tracking of a served disk survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Track {
    /// A killed server.
    Kill,
    /// A loss of power.
    Power,
    /// There is none.
    Off,
}
