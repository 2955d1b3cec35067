//! How typed values are read from JSON, written to it, and described: one declaration for all three.
//!
//! The macros of this file declare the protocol's types. What they declare is checked as QEMU checks it: members in
//! the order of their declaration, then what is left over; and with QEMU's texts.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::{Map, Value};

use crate::Error;
use crate::shape::{Member, Shape, Variant};

/// A type of the protocol. It is written as `serde` has it.
pub trait Argument: Serialize + Sized {
    /// What it looks like, for `query-qmp-schema`.
    fn shape() -> Shape;

    /// Reads it strictly.
    ///
    /// # Errors
    /// The first rule that the value breaks, naming the place.
    fn read(value: Value, at: &Place<'_>) -> Result<Self, Error>;

    /// Writes it.
    fn write(&self) -> Value {
        serde_json::to_value(self).expect("every member has a name, so it is JSON")
    }
}

/// Where in the arguments a value stands.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    above: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Whole,
    Member(&'a str),
    Item(usize),
}

impl<'a> Place<'a> {
    /// The arguments as a whole.
    pub const WHOLE: Place<'static> = Place {
        above: None,
        step: Step::Whole,
    };

    pub(crate) fn member(&'a self, name: &'a str) -> Place<'a> {
        Place {
            above: Some(self),
            step: Step::Member(name),
        }
    }

    pub(crate) fn item(&'a self, index: usize) -> Place<'a> {
        Place {
            above: Some(self),
            step: Step::Item(index),
        }
    }

    /// With all that is above it: `actions[0].data`.
    pub(crate) fn full(&self) -> String {
        let above = self.above.map(Place::full).unwrap_or_default();
        match self.step {
            Step::Whole => above,
            Step::Member(name) if above.is_empty() => name.to_owned(),
            Step::Member(name) => format!("{above}.{name}"),
            Step::Item(index) => format!("{above}[{index}]"),
        }
    }

    /// Its own name; QEMU calls what has none `null`.
    pub(crate) fn own(&self) -> &str {
        match self.step {
            Step::Member(name) => name,
            Step::Whole | Step::Item(_) => "null",
        }
    }

    pub(crate) fn wrong_type(&self, expected: &str) -> Error {
        let name = self.full();
        Error::generic(format!(
            "Invalid parameter type for '{name}', expected: {expected}"
        ))
    }
}

/// An object being taken apart.
#[derive(Debug)]
pub struct Object<'a> {
    members: Map<String, Value>,
    at: &'a Place<'a>,
}

impl<'a> Object<'a> {
    /// Begins with a value that must be an object.
    ///
    /// # Errors
    /// It is not.
    pub fn open(value: Value, at: &'a Place<'a>) -> Result<Self, Error> {
        let Value::Object(members) = value else {
            return Err(at.wrong_type("object"));
        };
        Ok(Self { members, at })
    }

    /// Takes a member; what is optional may be missing.
    ///
    /// # Errors
    /// It is missing and must not be, or is wrong.
    pub fn take<T: Field>(&mut self, name: &str) -> Result<T, Error> {
        let at = self.at.member(name);
        T::field(self.members.remove(name), &at)
    }

    /// Ends the taking apart.
    ///
    /// # Errors
    /// Something was not taken.
    pub fn close(self) -> Result<(), Error> {
        match self.members.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name = self.at.member(name).full();
                Err(Error::generic(format!("Parameter '{name}' is unexpected")))
            }
        }
    }
}

/// What may be the type of a member: an [`Argument`], or an `Option` of one.
pub trait Field: Sized {
    /// Whether it may be missing.
    const OPTIONAL: bool;
    /// What it looks like if it is there.
    fn field_shape() -> Shape;
    /// Reads it.
    ///
    /// # Errors
    /// As [`Object::take`].
    fn field(value: Option<Value>, at: &Place<'_>) -> Result<Self, Error>;
    /// Writes it under this name, if it is there.
    ///
    /// # Errors
    /// What the map says.
    fn write_field<M: SerializeMap>(&self, name: &str, members: &mut M) -> Result<(), M::Error>;
}

impl<T: Argument> Field for T {
    const OPTIONAL: bool = false;

    fn field_shape() -> Shape {
        T::shape()
    }

    fn field(value: Option<Value>, at: &Place<'_>) -> Result<Self, Error> {
        let missing = || Error::generic(format!("Parameter '{}' is missing", at.full()));
        T::read(value.ok_or_else(missing)?, at)
    }

    fn write_field<M: SerializeMap>(&self, name: &str, members: &mut M) -> Result<(), M::Error> {
        members.serialize_entry(name, self)
    }
}

impl<T: Argument> Field for Option<T> {
    const OPTIONAL: bool = true;

    fn field_shape() -> Shape {
        T::shape()
    }

    fn field(value: Option<Value>, at: &Place<'_>) -> Result<Self, Error> {
        value.map(|value| T::read(value, at)).transpose()
    }

    fn write_field<M: SerializeMap>(&self, name: &str, members: &mut M) -> Result<(), M::Error> {
        self.as_ref()
            .map_or(Ok(()), |value| members.serialize_entry(name, value))
    }
}

/// The rest of a flat union: which members there are depends on a word among them.
pub trait Choice: Sized {
    /// The member that chooses.
    const TAG: &'static str;
    /// The type of that member.
    fn tag_shape() -> Shape;
    /// That member.
    fn tag_member() -> Member {
        Member {
            name: Self::TAG.to_owned(),
            shape: Self::tag_shape(),
            optional: false,
        }
    }
    /// What each word brings.
    fn variants() -> Vec<Variant>;
    /// Reads the word.
    ///
    /// # Errors
    /// It is missing or unknown.
    fn tag(object: &mut Object<'_>) -> Result<&'static str, Error>;
    /// Reads what the word brings.
    ///
    /// # Errors
    /// As [`Object::take`].
    fn rest(tag: &'static str, object: &mut Object<'_>) -> Result<Self, Error>;
    /// Writes the word and what it brings.
    ///
    /// # Errors
    /// What the map says.
    fn write_into<M: SerializeMap>(&self, members: &mut M) -> Result<(), M::Error>;
}

/// Members that stand in somebody else's object.
pub trait Members: Sized {
    /// What they are.
    fn members() -> Vec<Member>;
    /// Takes them.
    ///
    /// # Errors
    /// As [`Object::take`].
    fn take_from(object: &mut Object<'_>) -> Result<Self, Error>;
    /// Writes them.
    ///
    /// # Errors
    /// What the map says.
    fn write_into<M: SerializeMap>(&self, members: &mut M) -> Result<(), M::Error>;
}

/// Reads one of these words.
pub(crate) fn read_word(
    words: &'static [&'static str],
    value: &Value,
    at: &Place<'_>,
) -> Result<&'static str, Error> {
    let said = value.as_str().ok_or_else(|| at.wrong_type("string"))?;
    let known = words.iter().find(|word| **word == said);
    known.copied().ok_or_else(|| {
        let own = at.own();
        Error::generic(format!("Parameter '{own}' does not accept value '{said}'"))
    })
}

/// Reads the word that chooses between the variants of a union.
pub(crate) fn read_tag(
    words: &'static [&'static str],
    name: &str,
    object: &mut Object<'_>,
) -> Result<&'static str, Error> {
    let at = object.at.member(name);
    let missing = || Error::generic(format!("Parameter '{}' is missing", at.full()));
    let value = object.members.remove(name).ok_or_else(missing)?;
    read_word(words, &value, &at)
}

/// The refusal of an alternate that is none of its kinds.
pub(crate) fn no_alternate(name: &str, at: &Place<'_>) -> Error {
    // QEMU names only the last step here.
    let own = at.own();
    Error::generic(format!(
        "Invalid parameter type for '{own}', expected: {name}"
    ))
}

/// A Rust name as the protocol writes it.
pub(crate) fn wire_name(name: &'static str) -> Cow<'static, str> {
    let name = name.trim_start_matches("r#");
    if name.contains('_') {
        name.replace('_', "-").into()
    } else {
        name.into()
    }
}

/// Declares a record: members of a name and a type each, `Option` for those that may be missing; and at the end, for a
/// flat union, the choice that the others depend on. `on` another record it begins with that one's members. A name in
/// brackets is that on the wire, where it is not the field's with hyphens.
macro_rules! record {
    ($(#[$doc:meta])* $name:ident $(on $base:ident: $bases:ty)? { $($field:ident $([$wire:literal])?: $type:ty),* $(,)? } $(by $choice:ident: $choices:ty)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "the members' names are the protocol's own")]
        pub struct $name { $(pub $base: $bases,)? $(pub $field: $type,)* $(pub $choice: $choices,)? }

        impl $crate::argument::Members for $name {
            fn members() -> Vec<$crate::shape::Member> {
                let own = vec![
                    $(<$choices as $crate::argument::Choice>::tag_member(),)?
                    $($crate::shape::Member {
                        name: record!(@wire $field $($wire)?).into_owned(),
                        shape: <$type as $crate::argument::Field>::field_shape(),
                        optional: <$type as $crate::argument::Field>::OPTIONAL,
                    }),*
                ];
                let all = [$(<$bases as $crate::argument::Members>::members(),)? own];
                all.into_iter().flatten().collect()
            }

            #[allow(unused_variables, reason = "a record may have no members")]
            fn take_from(object: &mut $crate::argument::Object<'_>) -> Result<Self, $crate::Error> {
                $(let $base = <$bases as $crate::argument::Members>::take_from(object)?;)?
                $(let tag = <$choices as $crate::argument::Choice>::tag(object)?;)?
                $(let $field = object.take(&record!(@wire $field $($wire)?))?;)*
                $(let $choice = <$choices as $crate::argument::Choice>::rest(tag, object)?;)?
                Ok(Self { $($base,)? $($field,)* $($choice,)? })
            }

            #[allow(unused_variables, reason = "a record may have no members")]
            fn write_into<M: serde::ser::SerializeMap>(&self, members: &mut M) -> Result<(), M::Error> {
                $($crate::argument::Members::write_into(&self.$base, members)?;)?
                $($crate::argument::Choice::write_into(&self.$choice, members)?;)?
                $($crate::argument::Field::write_field(&self.$field, &record!(@wire $field $($wire)?), members)?;)*
                Ok(())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut members = serializer.serialize_map(None)?;
                $crate::argument::Members::write_into(self, &mut members)?;
                serde::ser::SerializeMap::end(members)
            }
        }

        impl $crate::argument::Argument for $name {
            fn shape() -> $crate::shape::Shape {
                $crate::shape::Shape::Object {
                    name: stringify!($name),
                    members: <Self as $crate::argument::Members>::members,
                    variants: record!(@variants $($choices)?),
                }
            }

            fn read(
                value: serde_json::Value,
                at: &$crate::argument::Place<'_>,
            ) -> Result<Self, $crate::Error> {
                let mut object = $crate::argument::Object::open(value, at)?;
                let read = <Self as $crate::argument::Members>::take_from(&mut object)?;
                object.close()?;
                Ok(read)
            }
        }
    };
    (@wire $field:ident) => { $crate::argument::wire_name(stringify!($field)) };
    (@wire $field:ident $wire:literal) => { std::borrow::Cow::Borrowed($wire) };
    (@variants) => { None };
    (@variants $choices:ty) => {
        Some((
            <$choices as $crate::argument::Choice>::TAG,
            <$choices as $crate::argument::Choice>::variants,
        ))
    };
}

/// Declares an enumeration by its words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the words are the protocol's own")]
        pub enum $name { $($variant),* }

        impl $name {
            /// Every word, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl $crate::argument::Argument for $name {
            fn shape() -> $crate::shape::Shape {
                $crate::shape::Shape::Words { name: stringify!($name), words: Self::WORDS }
            }

            fn read(
                value: serde_json::Value,
                at: &$crate::argument::Place<'_>,
            ) -> Result<Self, $crate::Error> {
                match $crate::argument::read_word(Self::WORDS, &value, at)? {
                    $($word => Ok(Self::$variant),)*
                    _ => unreachable!("a word of the list"),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

/// Declares the choices of a flat union: by which member, and what each word brings. `name in data` puts it into a
/// member of its own instead.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident by $tag:literal { $($variants:tt)* }) => {
        choices! { @make flat $(#[$doc])* $name by $tag { $($variants)* } }
    };
    ($(#[$doc:meta])* $name:ident by $tag:literal in $data:tt { $($variants:tt)* }) => {
        choices! { @make $data $(#[$doc])* $name by $tag { $($variants)* } }
    };
    (@make $how:tt $(#[$doc:meta])* $name:ident by $tag:literal { $($variant:ident($type:ty) = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "the words are the protocol's own")]
        pub enum $name { $($variant($type)),* }

        impl $name {
            /// Every word, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The word that stands for this.
            pub const fn word(&self) -> &'static str {
                match self { $(Self::$variant(_) => $word),* }
            }
        }

        impl $crate::argument::Choice for $name {
            const TAG: &'static str = $tag;

            fn tag_shape() -> $crate::shape::Shape {
                $crate::shape::Shape::Words { name: concat!(stringify!($name), "Kind"), words: Self::WORDS }
            }

            fn variants() -> Vec<$crate::shape::Variant> {
                vec![$($crate::shape::Variant {
                    word: $word,
                    shape: choices!(@shape $how $type),
                }),*]
            }

            fn tag(object: &mut $crate::argument::Object<'_>) -> Result<&'static str, $crate::Error> {
                $crate::argument::read_tag(Self::WORDS, $tag, object)
            }

            fn rest(
                tag: &'static str,
                object: &mut $crate::argument::Object<'_>,
            ) -> Result<Self, $crate::Error> {
                match tag {
                    $($word => Ok(Self::$variant(choices!(@take $how $type, object))),)*
                    _ => unreachable!("a word of the list"),
                }
            }

            fn write_into<M: serde::ser::SerializeMap>(&self, members: &mut M) -> Result<(), M::Error> {
                members.serialize_entry($tag, self.word())?;
                match self {
                    $(Self::$variant(inner) => choices!(@write $how inner, members)),*
                }
            }
        }
    };
    (@shape flat $type:ty) => { <$type as $crate::argument::Argument>::shape() };
    (@shape $data:literal $type:ty) => {
        $crate::shape::Shape::Wrapped(Box::new(<$type as $crate::argument::Argument>::shape()))
    };
    (@take flat $type:ty, $object:ident) => { <$type as $crate::argument::Members>::take_from($object)? };
    (@take $data:literal $type:ty, $object:ident) => { $object.take::<$type>($data)? };
    (@write flat $inner:ident, $members:ident) => { $crate::argument::Members::write_into($inner, $members) };
    (@write $data:literal $inner:ident, $members:ident) => { $members.serialize_entry($data, $inner) };
}

pub(crate) use {choices, record, words};

#[cfg(test)]
mod tests;
