//! The built-in types of the protocol: text, numbers, truth, lists.

use serde_json::Value;

use crate::Error;
use crate::argument::{Argument, Place};
use crate::shape::{Builtin, Shape};

impl Argument for String {
    fn shape() -> Shape {
        Shape::Builtin(Builtin::Str)
    }

    fn read(value: Value, at: &Place<'_>) -> Result<Self, Error> {
        let Value::String(text) = value else {
            return Err(at.wrong_type("string"));
        };
        Ok(text)
    }
}

impl Argument for bool {
    fn shape() -> Shape {
        Shape::Builtin(Builtin::Bool)
    }

    fn read(value: Value, at: &Place<'_>) -> Result<Self, Error> {
        value.as_bool().ok_or_else(|| at.wrong_type("boolean"))
    }
}

impl Argument for i64 {
    fn shape() -> Shape {
        Shape::Builtin(Builtin::Int)
    }

    fn read(value: Value, at: &Place<'_>) -> Result<Self, Error> {
        value.as_i64().ok_or_else(|| at.wrong_type("integer"))
    }
}

/// A count of bytes. QEMU takes negative numbers for what their bits say without a sign.
impl Argument for u64 {
    fn shape() -> Shape {
        Shape::Builtin(Builtin::Int)
    }

    fn read(value: Value, at: &Place<'_>) -> Result<Self, Error> {
        let found = value.as_u64().or(value.as_i64().map(i64::cast_unsigned));
        let wrong = || format!("Parameter '{}' expects uint64", at.full());
        found.ok_or_else(|| Error::generic(wrong()))
    }
}

impl Argument for u32 {
    fn shape() -> Shape {
        Shape::Builtin(Builtin::Int)
    }

    fn read(value: Value, at: &Place<'_>) -> Result<Self, Error> {
        let wide = u64::read(value, at)?;
        let wrong = || format!("Parameter '{}' expects uint32_t", at.full());
        u32::try_from(wide).map_err(|_| Error::generic(wrong()))
    }
}

impl<T: Argument> Argument for Vec<T> {
    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }

    fn read(value: Value, at: &Place<'_>) -> Result<Self, Error> {
        let Value::Array(items) = value else {
            return Err(at.wrong_type("array"));
        };
        let numbered = items.into_iter().enumerate();
        numbered
            .map(|(index, item)| T::read(item, &at.item(index)))
            .collect()
    }
}

/// Anything: looked at later, or passed on.
impl Argument for Value {
    fn shape() -> Shape {
        Shape::Builtin(Builtin::Any)
    }

    fn read(value: Value, _: &Place<'_>) -> Result<Self, Error> {
        Ok(value)
    }
}
