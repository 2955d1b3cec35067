//! Names: of jobs, of their groups, of their kinds.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A name that is not one by the rule of job names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid job name {name:?}: a letter first, then letters, digits, '-', '.' or '_' (all ASCII)"
)]
///
/// Example: [`AddError`](crate::AddError).
pub struct InvalidName {
    /// What was given.
    pub name: String,
}

/// Whether a job may be called this: an ASCII letter, then ASCII letters, digits, `-`, `.` or `_`.
/// The rule is QEMU's for ids; there is no limit of length.
pub(crate) fn is_well_formed(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// This text as a name.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(text.as_ref().into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    )*};
}

names! {
    /// What a group is called in the journal. It outlives the process, so it should be used once.
    ///
    /// ```
    /// use cohort_job::GroupName;
    ///
    /// let group = GroupName::new("nightly-2026-11-23");
    /// assert_eq!(group.to_string(), "nightly-2026-11-23");
    /// ```
    GroupName;
    /// What a job is called: unique among the jobs of an engine that are not dismissed.
    ///
    /// ```
    /// use cohort_job::MemberName;
    ///
    /// let disk = MemberName::from("disk0");
    /// assert_eq!(disk.as_str(), "disk0");
    /// ```
    MemberName;
    /// What sort of driver a job has, so that it can be built again after a crash: `"backup"`.
    ///
    /// ```
    /// use cohort_job::Kind;
    ///
    /// assert_eq!(Kind::new("backup"), Kind::from("backup"));
    /// ```
    Kind;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_id_rule() {
        for good in ["id0", "id1", "drive1", "id_2", "a", "Z-.9_"] {
            assert!(is_well_formed(good), "{good:?}");
        }
        for bad in [
            "0id", "", "   ", "123", "_id", "-id", ".id", "#id", "a b", "é", "aé", "a/b",
        ] {
            assert!(!is_well_formed(bad), "{bad:?}");
        }
    }
}
