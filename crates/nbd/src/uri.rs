//! Where an export is, as text: `nbd://HOST[:PORT]/NAME` and `nbd+unix:///NAME?socket=PATH`, as the protocol's
//! `doc/uri.md` has them.

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
    #[error("an NBD address begins with nbd:// or nbd+unix://")]
    Scheme,
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
        let mut socket = None;
        for parameter in query.into_iter().flat_map(|query| query.split('&')) {
            match parameter.split_once('=') {
                Some(("socket", path)) if !path.is_empty() => socket = Some(unescape(path)?),
                _ => return Err(UriError::Parameter(parameter.to_owned())),
            }
        }
        let server = match (scheme, socket) {
            ("nbd", None) => tcp(authority)?,
            ("nbd", Some(_)) => return Err(UriError::Parameter("socket".into())),
            ("nbd+unix", Some(path)) if authority.is_empty() => Server::Unix(path.into()),
            ("nbd+unix", _) => return Err(UriError::Socket),
            _ => return Err(UriError::Scheme),
        };
        Ok(Self { server, name })
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
        match &self.server {
            Server::Tcp { host, port } => {
                if host.contains(':') {
                    write!(f, "nbd://[{host}]")?;
                } else {
                    write!(f, "nbd://{host}")?;
                }
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                f.write_str("/")?;
                escape(f, self.name.as_str())
            }
            Server::Unix(path) => {
                f.write_str("nbd+unix:///")?;
                escape(f, self.name.as_str())?;
                f.write_str("?socket=")?;
                escape(f, &path.to_string_lossy())
            }
        }
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
