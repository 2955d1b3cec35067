//! Encrypted connections: TLS by rustls, over a socket that some threads write to while one reads.
//!
//! The folder of certificates is the one that QEMU, nbdkit and libnbd use: `ca-cert.pem`, and for either side a certificate
//! with its key.

use std::fmt;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, Connection, RootCertStore, ServerConfig};

use crate::socket::Plain;

/// How much of what a peer sent is taken from the socket at once.
const TAKEN_BYTES: usize = 64 << 10;

/// Most of what is encrypted before it is sent: four records.
const SEALED_BYTES: usize = 64 << 10;

/// A folder of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: pem::Error,
    },
    /// What is in the folder makes no sense together.
    #[error("the certificates in {}: {why}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        why: String,
    },
}

/// What a server shows of itself, and whom it lets in.
#[derive(Clone)]
pub struct TlsServer(Arc<ServerConfig>);

/// What a client shows of itself, and whom it believes.
#[derive(Clone)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

impl TlsServer {
    /// By `server-cert.pem` and `server-key.pem` in the folder. Clients must have a certificate that `ca-cert.pem` vouches
    /// for, unless `anyone` may come.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(folder: &Path, anyone: bool) -> Result<Self, TlsError> {
        let wrong = |why: String| TlsError::Folder {
            folder: folder.to_owned(),
            why,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?;
        let builder = if anyone {
            builder.with_no_client_auth()
        } else {
            let roots = Arc::new(roots(folder)?);
            let clients = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let clients = clients.build().map_err(|error| wrong(error.to_string()))?;
            builder.with_client_cert_verifier(clients)
        };
        let (chain, key) = identity(folder, "server")?;
        let config = builder.with_single_cert(chain, key);
        Ok(Self(Arc::new(
            config.map_err(|error| wrong(error.to_string()))?,
        )))
    }
}

impl TlsClient {
    /// By `client-cert.pem` and `client-key.pem` in the folder, if they are there; believes servers for which
    /// `ca-cert.pem` vouches.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn new(folder: &Path) -> Result<Self, TlsError> {
        let wrong = |error: rustls::Error| TlsError::Folder {
            folder: folder.to_owned(),
            why: error.to_string(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(roots(folder)?);
        let config = if folder.join("client-cert.pem").exists() {
            let (chain, key) = identity(folder, "client")?;
            builder.with_client_auth_cert(chain, key).map_err(wrong)?
        } else {
            builder.with_no_client_auth()
        };
        Ok(Self(Arc::new(config)))
    }
}

fn roots(folder: &Path) -> Result<RootCertStore, TlsError> {
    let path = folder.join("ca-cert.pem");
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&path)? {
        roots.add(certificate).map_err(|error| TlsError::Folder {
            folder: folder.to_owned(),
            why: format!("ca-cert.pem: {error}"),
        })?;
    }
    Ok(roots)
}

fn identity(
    folder: &Path,
    side: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates(&folder.join(format!("{side}-cert.pem")))?;
    let path = folder.join(format!("{side}-key.pem"));
    let key = PrivateKeyDer::from_pem_file(&path);
    Ok((chain, key.map_err(|cause| TlsError::File { path, cause })?))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |cause| TlsError::File {
        path: path.to_owned(),
        cause,
    };
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect();
    match all.map_err(failed)? {
        none if none.is_empty() => Err(failed(pem::Error::NoItemsFound)),
        all => Ok(all),
    }
}

/// An encrypted connection. One thread reads at a time, any number write.
pub(crate) struct Secured {
    connection: Mutex<Connection>,
    /// Came and is not looked at yet.
    taken: Mutex<Cursor<Vec<u8>>>,
    /// Held while something is sealed and sent, so that records go out in their order.
    sending: Mutex<Vec<u8>>,
}

impl Secured {
    /// Meets a client, until the deadline.
    ///
    /// # Errors
    /// It is not one that is let in, or the connection failed.
    pub(crate) fn accept(
        server: &TlsServer,
        socket: &Plain,
        deadline: Instant,
    ) -> io::Result<Self> {
        let connection = rustls::ServerConnection::new(server.0.clone());
        Self::meet(
            connection.map_err(io::Error::other)?.into(),
            socket,
            deadline,
        )
    }

    /// Meets a server that must be `name`, until the deadline.
    ///
    /// # Errors
    /// It is not the one, or does not believe us, or the connection failed.
    pub(crate) fn connect(
        client: &TlsClient,
        name: &str,
        socket: &Plain,
        deadline: Instant,
    ) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let connection = rustls::ClientConnection::new(client.0.clone(), name);
        Self::meet(
            connection.map_err(io::Error::other)?.into(),
            socket,
            deadline,
        )
    }

    fn meet(connection: Connection, socket: &Plain, deadline: Instant) -> io::Result<Self> {
        let secured = Self {
            connection: Mutex::new(connection),
            taken: Mutex::default(),
            sending: Mutex::default(),
        };
        loop {
            secured.send(socket)?;
            if !lock(&secured.connection).is_handshaking() {
                return Ok(secured);
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut taken = lock(&secured.taken);
            let looked = secured.look(&mut taken, socket);
            drop(taken);
            if looked.is_err() {
                // The peer learns what was wrong, if it still listens.
                let _ = secured.send(socket);
            }
            looked?;
        }
    }

    /// Reads what is there, at least a byte; 0 at the end.
    ///
    /// # Errors
    /// What the socket says, or the peer broke the protocol. After [`io::ErrorKind::WouldBlock`] nothing is lost.
    pub(crate) fn read(&self, socket: &Plain, buf: &mut [u8]) -> io::Result<usize> {
        let mut taken = lock(&self.taken);
        loop {
            let read = lock(&self.connection).reader().read(buf);
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Peers that just go are common, and every length here is known beforehand.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            self.look(&mut taken, socket)?;
            // New keys, answers to them.
            if lock(&self.connection).wants_write() {
                self.send(socket)?;
            }
        }
    }

    /// Looks at what came, or waits for something to come.
    fn look(&self, taken: &mut Cursor<Vec<u8>>, socket: &Plain) -> io::Result<()> {
        if taken.position() == taken.get_ref().len() as u64 {
            let buffer = taken.get_mut();
            buffer.resize(TAKEN_BYTES, 0);
            let read = socket.read(buffer);
            buffer.truncate(*read.as_ref().unwrap_or(&0));
            taken.set_position(0);
            read?;
        }
        let mut connection = lock(&self.connection);
        if connection.read_tls(taken)? == 0 && connection.is_handshaking() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let processed = connection.process_new_packets();
        processed.map(drop).map_err(io::Error::other)
    }

    /// Writes all of each part, one after the other.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) fn write_all(&self, socket: &Plain, parts: &[&[u8]]) -> io::Result<()> {
        let mut sealed = lock(&self.sending);
        for piece in parts.iter().flat_map(|part| part.chunks(SEALED_BYTES)) {
            lock(&self.connection).writer().write_all(piece)?;
            self.flush(&mut sealed, socket)?;
        }
        Ok(())
    }

    /// Says that nothing more is sent; one that is gone need not hear it.
    pub(crate) fn goodbye(&self, socket: &Plain) {
        lock(&self.connection).send_close_notify();
        let _ = self.send(socket);
    }

    fn send(&self, socket: &Plain) -> io::Result<()> {
        self.flush(&mut lock(&self.sending), socket)
    }

    fn flush(&self, sealed: &mut Vec<u8>, socket: &Plain) -> io::Result<()> {
        sealed.clear();
        let mut connection = lock(&self.connection);
        while connection.wants_write() {
            connection.write_tls(sealed)?;
        }
        drop(connection);
        if sealed.is_empty() {
            return Ok(());
        }
        socket.write_all(sealed, &[])
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").finish_non_exhaustive()
    }
}

/// Nothing of the keys.
impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").finish_non_exhaustive()
    }
}

/// Nothing of the keys.
impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
