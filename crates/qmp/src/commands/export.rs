//! The NBD server and what it exports.

use super::{BitmapSource, InetAddress, UnixAddress, choices, record, words};

choices! {
    /// Where to listen, in the old form with its members inside `data`.
    LegacyAddress by "type" in "data" {
        Inet(InetAddress) = "inet",
        Unix(UnixAddress) = "unix",
    }
}

record! {
    /// Where to listen, as an object of its own.
    LegacySocketAddress {} by address: LegacyAddress
}

record! {
    /// Arguments of `nbd-server-start`.
    NbdServerStart {
        addr: LegacySocketAddress,
        handshake_max_seconds: Option<u32>,
        tls_creds: Option<String>,
        tls_authz: Option<String>,
        max_connections: Option<u32>,
    }
}

record! {
    /// Arguments of `block-export-add`.
    ExportOptions {
        id: String,
        node_name: String,
        writable: Option<bool>,
        writethrough: Option<bool>,
    } by export: ExportKind
}

choices! {
    /// By what protocol.
    ExportKind by "type" { Nbd(NbdExport) = "nbd" }
}

record! {
    /// What an NBD export says.
    NbdExport {
        name: Option<String>,
        description: Option<String>,
        bitmaps: Option<Vec<BitmapSource>>,
        allocation_depth: Option<bool>,
    }
}

words! {
    /// Whether clients are waited for, or thrown out.
    RemoveMode { Safe = "safe", Hard = "hard" }
}

record! {
    /// Arguments of `block-export-del`.
    ExportDel { id: String, mode: Option<RemoveMode> }
}

record! {
    /// Arguments of `nbd-server-add`.
    NbdServerAdd {
        name: Option<String>,
        description: Option<String>,
        device: String,
        writable: Option<bool>,
        bitmap: Option<String>,
    }
}

record! {
    /// Arguments of `nbd-server-remove`.
    NbdServerRemove { name: String, mode: Option<RemoveMode> }
}

record! {
    /// An item of `query-block-exports`.
    ExportInfo {
        id: String,
        r#type: String,
        node_name: String,
        shutting_down: bool,
    }
}
