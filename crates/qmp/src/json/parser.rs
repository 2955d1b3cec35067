//! Tokens to a value.

use serde_json::{Map, Number, Value};

use super::lexer::{Token, TokenKind};

/// Parses tokens of this text that are balanced, or known to be wrong. The error says what was wrong first.
pub(super) fn parse(bytes: &[u8], tokens: &[Token]) -> Result<Value, String> {
    let at = 0;
    Parser { bytes, tokens, at }.value()
}

struct Parser<'a> {
    bytes: &'a [u8],
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Result<&'a Token, String> {
        let token = self.tokens.get(self.at).ok_or("premature EOI")?;
        self.at += 1;
        Ok(token)
    }

    fn peek(&self) -> Option<TokenKind> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    /// No deeper than [`MAX_NESTING`](super::MAX_NESTING), which the decoder has checked.
    fn value(&mut self) -> Result<Value, String> {
        let token = self.next()?;
        let bytes = &self.bytes[token.bytes.clone()];
        match token.kind {
            TokenKind::OpenBrace => self.object(),
            TokenKind::OpenBracket => self.list(),
            TokenKind::String => text(bytes).map(Value::String),
            TokenKind::Number => number(bytes),
            TokenKind::Keyword => match bytes {
                b"true" => Ok(Value::Bool(true)),
                b"false" => Ok(Value::Bool(false)),
                b"null" => Ok(Value::Null),
                other => Err(format!(
                    "invalid keyword '{}'",
                    String::from_utf8_lossy(other)
                )),
            },
            TokenKind::CloseBrace
            | TokenKind::CloseBracket
            | TokenKind::Colon
            | TokenKind::Comma => Err("expecting value".to_owned()),
        }
    }

    fn object(&mut self) -> Result<Value, String> {
        let mut members = Map::new();
        if self.peek() == Some(TokenKind::CloseBrace) {
            self.at += 1;
            return Ok(Value::Object(members));
        }
        loop {
            let Value::String(key) = self.value()? else {
                return Err("key is not a string in object".to_owned());
            };
            if self.next()?.kind != TokenKind::Colon {
                return Err("missing : in object pair".to_owned());
            }
            let value = self.value()?;
            if members.insert(key, value).is_some() {
                return Err("duplicate key".to_owned());
            }
            if self.ends(TokenKind::CloseBrace, "expected separator in dict")? {
                return Ok(Value::Object(members));
            }
        }
    }

    fn list(&mut self) -> Result<Value, String> {
        let mut items = Vec::new();
        if self.peek() == Some(TokenKind::CloseBracket) {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            if self.ends(TokenKind::CloseBracket, "expected separator in list")? {
                return Ok(Value::Array(items));
            }
        }
    }

    /// Whether what comes is the end, or a comma.
    fn ends(&mut self, end: TokenKind, otherwise: &str) -> Result<bool, String> {
        let kind = self.next()?.kind;
        if kind == end || kind == TokenKind::Comma {
            Ok(kind == end)
        } else {
            Err(otherwise.to_owned())
        }
    }
}

/// An integer where it fits 64 bits, with or without sign; else the nearest float.
fn number(text: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(text).map_err(|_| "expecting value")?;
    if let Ok(whole) = text.parse::<i64>() {
        return Ok(whole.into());
    }
    if let Ok(whole) = text.parse::<u64>() {
        return Ok(whole.into());
    }
    let float = text.parse::<f64>().ok().and_then(Number::from_f64);
    // Beyond the range of floats; QEMU takes it for infinity, which JSON cannot say back.
    Ok(float.map_or(Value::Null, Value::Number))
}

/// The text between the quotes.
fn text(token: &[u8]) -> Result<String, String> {
    let inside = &token[1..token.len() - 1];
    let inside = std::str::from_utf8(inside).map_err(|_| "invalid UTF-8 sequence in string")?;
    if !inside.contains('\\') {
        return Ok(inside.to_owned());
    }
    let mut text = String::with_capacity(inside.len());
    let mut rest = inside.chars();
    while let Some(found) = rest.next() {
        if found != '\\' {
            text.push(found);
            continue;
        }
        text.push(match rest.next() {
            Some(same @ ('"' | '\'' | '\\' | '/')) => same,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => unicode(&mut rest)?,
            _ => return Err("invalid escape sequence in string".to_owned()),
        });
    }
    Ok(text)
}

/// What follows `\u`: four digits, and the other half of a surrogate pair.
fn unicode(rest: &mut std::str::Chars<'_>) -> Result<char, String> {
    let first = four_digits(rest)?;
    let mut code = first;
    if (0xD800..0xDC00).contains(&first) {
        let mut ahead = rest.clone();
        if ahead.next() == Some('\\') && ahead.next() == Some('u') {
            let second = four_digits(&mut ahead)?;
            if (0xDC00..0xE000).contains(&second) {
                code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                *rest = ahead;
            }
        }
    }
    char::from_u32(code).ok_or_else(|| format!("\\u{first:04x} is not a valid Unicode character"))
}

fn four_digits(rest: &mut std::str::Chars<'_>) -> Result<u32, String> {
    let mut code = 0;
    for _ in 0..4 {
        let digit = rest.next().and_then(|found| found.to_digit(16));
        code = code << 4 | digit.ok_or("invalid escape sequence in string")?;
    }
    Ok(code)
}
