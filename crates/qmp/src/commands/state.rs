//! What a restarted server has again of what it had before, which is ours: QEMU forgets it.

use super::{record, words};

words! {
    /// What clients ask for that outlives a server.
    Kept {
        Object = "object",
        Node = "node",
        Bitmap = "bitmap",
        Job = "job",
        Server = "nbd-server",
        Export = "export",
    }
}

record! {
    /// What `x-cohort-query-state` returns: the state directory, if there is one; whether the server before this one ended
    /// in order; and what is to be said of what it had.
    StateInfo { directory: Option<String>, ended_in_order: bool, told: Vec<StateLine> }
}

record! {
    /// One of the things that the server before had: whether it is back, and what is to be said of that.
    StateLine { kind: Kept, name: String, back: bool, text: String }
}
