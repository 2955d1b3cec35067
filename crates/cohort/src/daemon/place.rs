//! Where a bitmap outlives its node, and what may be done with it for that: the law of stored bitmaps, as QEMU has it.

/// Where a bitmap is when its node is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: it goes with its node.
    Nowhere,
    /// In the node's image, where it is saved when that is closed.
    Image,
    /// In the node's image, which is only read.
    ReadOnlyImage,
    /// In the node's image, and what it says there is not true: it can only be removed.
    Inconsistent {
        /// Whether the image is only read, so that not even that can be done.
        read_only: bool,
    },
}

/// What somebody wants to do with a bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To change what is dirty.
    Change,
    /// To read it, or to have writes count or not.
    Use,
    /// To take it away.
    Remove,
}

impl Place {
    /// Why this may not be done with a bitmap that is there, in QEMU's words and by its order of looking.
    #[rustfmt::skip]
    pub(super) fn forbids(self, purpose: Purpose) -> Option<&'static str> {
        use Purpose::{Change, Remove, Use};
        let read_only = Some("readonly and cannot be modified");
        let inconsistent = Some("inconsistent and cannot be used");
        match (self, purpose) {
            (Self::Nowhere | Self::Image,              Change | Use | Remove) => None,
            (Self::ReadOnlyImage,                      Change | Remove)       => read_only,
            (Self::ReadOnlyImage,                      Use)                   => None,
            (Self::Inconsistent { read_only: true },   Change | Remove)       => read_only,
            (Self::Inconsistent { read_only: true },   Use)                   => inconsistent,
            (Self::Inconsistent { read_only: false },  Change | Use)          => inconsistent,
            (Self::Inconsistent { read_only: false },  Remove)                => None,
        }
    }

    /// Whether its image cannot be written to.
    pub(super) fn is_read_only(self) -> bool {
        matches!(
            self,
            Self::ReadOnlyImage | Self::Inconsistent { read_only: true }
        )
    }

    /// Whether nobody knows what is dirty.
    pub(super) fn is_inconsistent(self) -> bool {
        matches!(self, Self::Inconsistent { .. })
    }

    /// Whether it is written down in a state directory: of what changes with no write the image itself tells.
    pub(super) fn is_written_down(self) -> bool {
        matches!(self, Self::Nowhere | Self::Image)
    }
}
