//! What the protocol's types look like, and `query-qmp-schema` made from that.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

/// What a type looks like.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A type that needs no declaration.
    Builtin(Builtin),
    /// A list of this.
    List(Box<Shape>),
    /// One of some words.
    Words {
        /// What the type is called here.
        name: &'static str,
        /// The words, in order.
        words: &'static [&'static str],
    },
    /// An object, perhaps a flat union.
    Object {
        /// What the type is called here.
        name: &'static str,
        /// Its members, those that are always there.
        members: fn() -> Vec<Member>,
        /// The member that chooses the rest, and the choices.
        variants: Option<(&'static str, Variants)>,
    },
    /// One of these, told apart by their JSON types.
    Alternate {
        /// What the type is called here.
        name: &'static str,
        /// The kinds.
        kinds: fn() -> Vec<Shape>,
    },
    /// An object whose only member `data` is this.
    Wrapped(Box<Shape>),
}

/// The types that need no declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Builtin {
    /// Text.
    Str,
    /// An integer.
    Int,
    /// True or false.
    Bool,
    /// Null.
    Null,
    /// Anything.
    Any,
}

impl Builtin {
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Str => ("str", "string"),
            Self::Int => ("int", "int"),
            Self::Bool => ("bool", "boolean"),
            Self::Null => ("null", "null"),
            Self::Any => ("any", "value"),
        }
    }
}

/// A member of an object.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its type.
    pub shape: Shape,
    /// Whether it may be missing.
    pub optional: bool,
}

/// What a word of a flat union brings.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The word.
    pub word: &'static str,
    /// An object with the members.
    pub shape: Shape,
}

/// The variants of a flat union. Types refer to each other in rings, so they are asked for when they are needed.
pub type Variants = fn() -> Vec<Variant>;

/// A command or event, as the schema tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) arguments: Option<fn() -> Shape>,
    /// Nothing for an event.
    pub(crate) returns: Option<fn() -> Shape>,
    pub(crate) is_event: bool,
}

/// The answer to `query-qmp-schema`: QEMU's form of it, with numbers for the names of types.
pub(crate) fn describe(entries: &[Entry]) -> Value {
    let mut types = Types::default();
    let mut out: Vec<Value> = Vec::new();
    for entry in entries {
        let empty = types.empty();
        let arguments = entry
            .arguments
            .map_or(empty.clone(), |shape| types.number(shape()));
        out.push(if entry.is_event {
            json!({ "name": entry.name, "meta-type": "event", "arg-type": arguments })
        } else {
            let returns = entry.returns.map_or(empty, |shape| types.number(shape()));
            json!({ "name": entry.name, "meta-type": "command", "arg-type": arguments, "ret-type": returns })
        });
    }
    while let Some((number, shape)) = types.owed.pop_front() {
        let told = types.tell(&number, shape);
        out.push(told);
    }
    Value::Array(out)
}

/// The types that were named so far.
#[derive(Default)]
struct Types {
    numbers: BTreeMap<String, String>,
    owed: VecDeque<(String, Option<Shape>)>,
}

impl Types {
    /// The type without members.
    fn empty(&mut self) -> String {
        self.number_of("{}".to_owned(), None)
    }

    fn number(&mut self, shape: Shape) -> String {
        let key = key(&shape);
        self.number_of(key, Some(shape))
    }

    fn number_of(&mut self, key: String, shape: Option<Shape>) -> String {
        if let Some(known) = self.numbers.get(&key) {
            return known.clone();
        }
        let number = match &shape {
            Some(Shape::Builtin(builtin)) => builtin.names().0.to_owned(),
            Some(Shape::List(of)) => format!("[{}]", self.number((**of).clone())),
            _ => self.numbers.len().to_string(),
        };
        self.numbers.insert(key, number.clone());
        self.owed.push_back((number.clone(), shape));
        number
    }

    fn tell(&mut self, number: &str, shape: Option<Shape>) -> Value {
        let Some(shape) = shape else {
            return json!({ "name": number, "meta-type": "object", "members": [] });
        };
        match shape {
            Shape::Builtin(builtin) => {
                json!({ "name": number, "meta-type": "builtin", "json-type": builtin.names().1 })
            }
            Shape::List(of) => {
                json!({ "name": number, "meta-type": "array", "element-type": self.number(*of) })
            }
            Shape::Words { words, .. } => {
                let members: Vec<_> = words.iter().map(|word| json!({ "name": word })).collect();
                json!({ "name": number, "meta-type": "enum", "members": members, "values": words })
            }
            Shape::Object {
                members, variants, ..
            } => {
                let members: Vec<_> = members().into_iter().map(|m| self.member(m)).collect();
                let mut told = json!({ "name": number, "meta-type": "object", "members": members });
                if let Some((tag, variants)) = variants {
                    let cases = variants().into_iter().map(|variant| {
                        json!({ "case": variant.word, "type": self.number(variant.shape) })
                    });
                    told["variants"] = cases.collect();
                    told["tag"] = tag.into();
                }
                told
            }
            Shape::Alternate { kinds, .. } => {
                let kinds = kinds().into_iter();
                let members: Vec<_> = kinds
                    .map(|kind| json!({ "type": self.number(kind) }))
                    .collect();
                json!({ "name": number, "meta-type": "alternate", "members": members })
            }
            Shape::Wrapped(inner) => {
                let data = Member {
                    name: "data".to_owned(),
                    shape: *inner,
                    optional: false,
                };
                let members = [self.member(data)];
                json!({ "name": number, "meta-type": "object", "members": members })
            }
        }
    }

    fn member(&mut self, member: Member) -> Value {
        let mut told = json!({ "name": member.name, "type": self.number(member.shape) });
        if member.optional {
            told["default"] = Value::Null;
        }
        told
    }
}

/// What tells two types apart.
fn key(shape: &Shape) -> String {
    match shape {
        Shape::Builtin(builtin) => builtin.names().0.to_owned(),
        Shape::List(of) => format!("[{}]", key(of)),
        Shape::Words { name, .. } | Shape::Object { name, .. } | Shape::Alternate { name, .. } => {
            (*name).to_owned()
        }
        Shape::Wrapped(inner) => format!("{{data: {}}}", key(inner)),
    }
}
