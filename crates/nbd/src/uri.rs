//! Where an export is, as text: `nbd://HOST[:PORT]/NAME` and `nbd+unix:///NAME?socket=PATH`, and the same with `nbds` for
//! encrypted connections, as the protocol's `doc/uri.md` and libnbd have them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::limits::{Name, NameError};

/// Where an export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// Where its server listens.
    pub server: Server,
    /// What it is called there.
    pub name: Name,
    /// How the connection is encrypted, if it is.
    pub tls: Option<UriTls>,
}

/// How a connection is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriTls {
    /// The folder with `ca-cert.pem`, by which the server is known, and perhaps `client-cert.pem` and `client-key.pem`.
    pub certificates: PathBuf,
    /// What the server's certificate must be for, if not for the host.
    pub hostname: Option<String>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// At a host's port.
    Tcp {
        /// Its name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// At a unix socket.
    Unix(PathBuf),
}

/// The port of NBD servers.
pub const DEFAULT_PORT: u16 = 10809;

/// Why a text says not where an export is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// It begins otherwise.
    #[error(
        "an NBD address begins with nbd:// or nbd+unix://, or nbds:// or nbds+unix:// with TLS"
    )]
    Scheme,
    /// `nbds` without `?tls-certificates=DIR`.
    #[error(
        "an encrypted address says where its certificates are: ?tls-certificates=DIR with ca-cert.pem"
    )]
    Certificates,
    /// What is between `//` and the next `/` is no host, with or without a port.
    #[error("{0:?} is no HOST or HOST:PORT")]
    Host(String),
    /// `nbd+unix` without `?socket=PATH`, or with a host.
    #[error("an nbd+unix address is nbd+unix:///NAME?socket=PATH")]
    Socket,
    /// A parameter that is not known here.
    #[error("the parameter {0:?} is not supported")]
    Parameter(String),
    /// A `%` without two digits after it, or that stands for what is no text.
    #[error("the %-escapes are wrong")]
    Escape,
    /// The name is none.
    #[error("{0}")]
    Name(#[from] NameError),
}

impl Uri {
    /// Whether a text is meant to be such an address, rather than a path.
    pub fn is_meant_by(text: &str) -> bool {
        ["nbd:", "nbd+unix:", "nbds:", "nbds+unix:"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once("://").ok_or(UriError::Scheme)?;
        let (rest, query) = rest
            .split_once('?')
            .map_or((rest, None), |(r, q)| (r, Some(q)));
        let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
        let name = Name::new(unescape(name)?)?;
        let (mut socket, mut certificates, mut hostname) = (None, None, None);
        for parameter in query.into_iter().flat_map(|query| query.split('&')) {
            let unknown = || UriError::Parameter(parameter.to_owned());
            let (key, value) = parameter.split_once('=').ok_or_else(unknown)?;
            let known = match key {
                "socket" => &mut socket,
                "tls-certificates" => &mut certificates,
                "tls-hostname" => &mut hostname,
                _ => return Err(unknown()),
            };
            if value.is_empty() {
                return Err(unknown());
            }
            *known = Some(unescape(value)?);
        }
        let (plain, tls) = match (scheme.strip_prefix("nbds"), certificates, hostname) {
            (Some(rest), Some(certificates), hostname) => {
                let certificates = certificates.into();
                (
                    format!("nbd{rest}"),
                    Some(UriTls {
                        certificates,
                        hostname,
                    }),
                )
            }
            (Some(_), None, _) => return Err(UriError::Certificates),
            (None, None, None) => (scheme.to_owned(), None),
            (None, Some(_), _) => return Err(UriError::Parameter("tls-certificates".into())),
            (None, _, Some(_)) => return Err(UriError::Parameter("tls-hostname".into())),
        };
        let server = match (plain.as_str(), socket) {
            ("nbd", None) => tcp(authority)?,
            ("nbd", Some(_)) => return Err(UriError::Parameter("socket".into())),
            ("nbd+unix", Some(path)) if authority.is_empty() => Server::Unix(path.into()),
            ("nbd+unix", _) => return Err(UriError::Socket),
            _ => return Err(UriError::Scheme),
        };
        Ok(Self { server, name, tls })
    }
}

fn tcp(authority: &str) -> Result<Server, UriError> {
    let wrong = || UriError::Host(authority.to_owned());
    // An IPv6 address stands in brackets, as its colons would be taken for the port's.
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or_else(wrong)?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| wrong())?,
        None if port.is_empty() => DEFAULT_PORT,
        None => return Err(wrong()),
    };
    if host.is_empty() {
        return Err(wrong());
    }
    Ok(Server::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn unescape(text: &str) -> Result<String, UriError> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let digits = after
            .get(..2)
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let digits = digits.ok_or(UriError::Escape)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| UriError::Escape)?);
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).map_err(|_| UriError::Escape)
}

/// What has a meaning in an address, or is no plain sign, as `%` and two digits.
fn escape(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => write!(f, "{}", byte as char)?,
            b'/' | b'-' | b'_' | b'.' | b'~' | b'@' | b':' => write!(f, "{}", byte as char)?,
            _ => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "nbds" } else { "nbd" };
        let mut parameters: Vec<(&str, String)> = Vec::new();
        match &self.server {
            Server::Tcp { host, port } => {
                if host.contains(':') {
                    write!(f, "{scheme}://[{host}]")?;
                } else {
                    write!(f, "{scheme}://{host}")?;
                }
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                f.write_str("/")?;
            }
            Server::Unix(path) => {
                write!(f, "{scheme}+unix:///")?;
                parameters.push(("socket", path.to_string_lossy().into_owned()));
            }
        }
        escape(f, self.name.as_str())?;
        if let Some(UriTls {
            certificates,
            hostname,
        }) = &self.tls
        {
            parameters.push((
                "tls-certificates",
                certificates.to_string_lossy().into_owned(),
            ));
            parameters.extend(hostname.iter().map(|name| ("tls-hostname", name.clone())));
        }
        for (at, (key, value)) in parameters.iter().enumerate() {
            write!(f, "{}{key}=", if at == 0 { '?' } else { '&' })?;
            escape(f, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in [
            "nbd://host/",
            "nbd://host/disk",
            "nbd://127.0.0.1:10810/a%20b",
            "nbd://[::1]/x",
            "nbd://[::1]:1/x",
            "nbd+unix:///vda@2?socket=/run/c.sock",
            "nbd+unix:///?socket=/run/%25.sock",
            "nbds://host/x?tls-certificates=/etc/pki",
            "nbds+unix:///x?socket=/a&tls-certificates=/p%26q&tls-hostname=h",
        ] {
            assert_eq!(text.parse::<Uri>().unwrap().to_string(), text);
        }
        assert_eq!(
            "nbd://host".parse::<Uri>().unwrap().to_string(),
            "nbd://host/"
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "nbd",
            "nbd:host",
            "http://host/",
            "nbds://host/",
            "nbd:///x",
            "nbd://host:x/",
            "nbd://host:99999/",
            "nbd://[::1/x",
            "nbd://[::1]x/x",
            "nbd+unix:///x",
            "nbd+unix://host/x?socket=/a",
            "nbd+unix:///x?socket=",
            "nbd+unix:///x?socket=/a&tls=1",
            "nbd://h/x?tls-certificates=/p",
            "nbd://h/x?tls-hostname=h",
            "nbds://h/x?tls-hostname=h",
            "nbds+unix:///x?tls-certificates=/p",
            "nbdsx://h/x?tls-certificates=/p",
            "nbd://h/%",
            "nbd://h/%zz",
            "nbd://h/%+1",
            "nbd://h/%ff",
            "nbd://h/%00",
        ] {
            assert!(text.parse::<Uri>().is_err(), "{text}");
        }
    }
}
