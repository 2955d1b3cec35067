//! JSON as QMP speaks it: values one after the other in a stream of bytes, whole or an error each.
//!
//! Lines mean nothing. A value ends where its brackets balance; a string may be in single quotes; what is no token is
//! reported once, and skipped up to the next bracket, colon, comma or control character. The rules, and the texts
//! of the errors, are those of QEMU's parser, as its daemon shows them.

mod lexer;
mod parser;

use serde_json::Value;

use lexer::{Lexed, Lexer, Token, TokenKind};

/// Most brackets open at a time.
pub const MAX_NESTING: usize = 1024;

/// Most bytes of one value. QEMU takes 64 MiB; a grouped backup of ten thousand disks needs three.
pub const MAX_VALUE_BYTES: usize = 16 << 20;

/// Most tokens of one value.
pub const MAX_TOKENS: usize = 2 << 20;

/// Takes bytes as they come, gives values as they end.
#[derive(Debug, Default)]
pub struct Decoder {
    lexer: Lexer,
    tokens: Vec<Token>,
    braces: isize,
    brackets: isize,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes and appends what ended with them: values, and texts that say what was wrong.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<Result<Value, String>>) {
        for byte in bytes {
            let mut lexed = self.lexer.take(*byte);
            while let Lexed::Before(token) = lexed {
                out.extend(self.put(token));
                lexed = self.lexer.take(*byte);
            }
            match lexed {
                Lexed::Nothing => {}
                Lexed::Token(token) | Lexed::Before(token) => out.extend(self.put(token)),
                Lexed::Stray(text) => {
                    let stray = String::from_utf8_lossy(&text);
                    out.push(Err(
                        self.refuse(&format!("JSON parse error, stray '{stray}'"))
                    ));
                }
            }
            if self.lexer.text().len() > MAX_VALUE_BYTES {
                self.lexer.abandon();
                out.push(Err(self.refuse("JSON token size limit exceeded")));
            }
        }
    }

    /// Takes a token; gives what ends with it.
    fn put(&mut self, token: Token) -> Option<Result<Value, String>> {
        match token.kind {
            TokenKind::OpenBrace => self.braces += 1,
            TokenKind::CloseBrace => self.braces -= 1,
            TokenKind::OpenBracket => self.brackets += 1,
            TokenKind::CloseBracket => self.brackets -= 1,
            TokenKind::Colon
            | TokenKind::Comma
            | TokenKind::String
            | TokenKind::Number
            | TokenKind::Keyword => {}
        }
        self.tokens.push(token);
        if self.tokens.len() > MAX_TOKENS {
            return Some(Err(self.refuse("JSON token count limit exceeded")));
        }
        if self.braces + self.brackets > MAX_NESTING as isize {
            return Some(Err(self.refuse("JSON nesting depth limit exceeded")));
        }
        let open = self.braces > 0 || self.brackets > 0;
        if open && self.braces >= 0 && self.brackets >= 0 {
            return None;
        }
        let parsed = parser::parse(self.lexer.text(), &self.tokens);
        self.begin_anew();
        Some(parsed.map_err(|what| format!("JSON parse error, {what}")))
    }

    fn refuse(&mut self, text: &str) -> String {
        self.begin_anew();
        text.to_owned()
    }

    fn begin_anew(&mut self) {
        (self.braces, self.brackets) = (0, 0);
        self.tokens = Vec::new();
        self.lexer.clear();
    }
}

#[cfg(test)]
mod tests;
