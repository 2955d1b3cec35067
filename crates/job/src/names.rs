//! The names of a group's members, beside the members, most of whom have none.

use std::ops::Range;

use crate::{Kind, MemberName};

/// The names of those members that have one, in creation order.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<(u32, MemberName, Kind)>);

impl Names {
    pub(crate) fn add(&mut self, member: u32, name: MemberName, kind: Kind) {
        self.0.push((member, name, kind));
    }

    pub(crate) fn of(&self, member: u32) -> Option<&MemberName> {
        self.entry(member).map(|(_, name, _)| name)
    }

    /// Those of a span, with whose they are.
    pub(crate) fn within(&self, span: &Range<u32>) -> impl Iterator<Item = (u32, &MemberName)> {
        let from = self.0.partition_point(|(member, ..)| *member < span.start);
        let to = self.0.partition_point(|(member, ..)| *member < span.end);
        let named = self.0[from..to].iter();
        named.map(|(member, name, _)| (*member, name))
    }

    /// Name and kind.
    pub(crate) fn entry(&self, member: u32) -> Option<&(u32, MemberName, Kind)> {
        self.0
            .binary_search_by_key(&member, |(member, ..)| *member)
            .ok()
            .map(|at| &self.0[at])
    }

    /// Both as texts, empty for a member that has none.
    pub(crate) fn name_and_kind(&self, member: u32) -> (String, String) {
        self.entry(member)
            .map(|(_, name, kind)| (name.to_string(), kind.to_string()))
            .unwrap_or_default()
    }

    /// What a person calls this member.
    pub(crate) fn text(&self, member: u32) -> String {
        self.of(member)
            .map_or_else(|| format!("#{member}"), ToString::to_string)
    }
}
