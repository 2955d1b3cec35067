//! Bytes to tokens.

use std::ops::Range;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    Colon,
    Comma,
    String,
    Number,
    Keyword,
}

/// A token, and where in [`Lexer::text`] its bytes are, quotes included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) bytes: Range<usize>,
}

/// What the lexer found.
#[derive(Debug)]
pub(super) enum Lexed {
    Nothing,
    Token(Token),
    /// A token that ended before the byte, which is to be taken once more.
    Before(Token),
    /// Bytes that begin no token.
    Stray(Vec<u8>),
}

/// Where in a token we are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between tokens.
    #[default]
    Start,
    /// In a string with this quote.
    Text(u8),
    /// After a backslash in it.
    Escape(u8),
    Minus,
    /// After a zero that no digit may follow.
    Zero,
    Digits,
    Point,
    Fraction,
    /// After the letter e.
    Exponent,
    ExponentSign,
    ExponentDigits,
    Keyword,
    /// Skipping after what was no token.
    Lost,
}

/// Cuts a stream of bytes into tokens.
#[derive(Debug, Default)]
pub(super) struct Lexer {
    state: State,
    /// The bytes of tokens since the last [`clear`](Self::clear), one after the other.
    text: Vec<u8>,
    /// Where in them the token under way begins.
    begin: usize,
}

/// What a byte does in a state.
enum Move {
    /// It belongs to the token.
    Into(State),
    /// It is the token's last.
    Last(TokenKind),
    /// The token ended before it.
    Before(TokenKind),
    Skip,
    Wrong,
}

/// So much memory is kept for the next tokens.
const KEPT_BYTES: usize = 4 << 10;

impl Lexer {
    /// Takes a byte.
    pub(super) fn take(&mut self, byte: u8) -> Lexed {
        match self.step(byte) {
            Move::Skip => Lexed::Nothing,
            Move::Into(state) => {
                self.text.push(byte);
                self.state = state;
                Lexed::Nothing
            }
            Move::Last(kind) => {
                self.text.push(byte);
                Lexed::Token(self.end(kind))
            }
            Move::Before(kind) => Lexed::Before(self.end(kind)),
            Move::Wrong => {
                self.text.push(byte);
                self.state = State::Lost;
                Lexed::Stray(self.text.split_off(self.begin))
            }
        }
    }

    /// The bytes of tokens, and of the one under way.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Forgets them: nobody has a token any more.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES);
        self.begin = 0;
    }

    /// Gives the token under way up.
    pub(super) fn abandon(&mut self) {
        self.text.truncate(self.begin);
        self.state = State::Lost;
    }

    fn end(&mut self, kind: TokenKind) -> Token {
        self.state = State::Start;
        let begin = std::mem::replace(&mut self.begin, self.text.len());
        Token {
            kind,
            bytes: begin..self.text.len(),
        }
    }

    fn step(&mut self, byte: u8) -> Move {
        use State as S;
        match (self.state, byte) {
            (S::Start, _) => start(byte),
            (S::Lost, _) if ends_recovery(byte) => {
                self.state = S::Start;
                start(byte)
            }
            (S::Lost, _) => Move::Skip,

            (S::Text(quote), _) if byte == quote => Move::Last(TokenKind::String),
            (S::Text(quote), b'\\') => Move::Into(S::Escape(quote)),
            (S::Text(quote), _) if may_stand_in_text(byte) => Move::Into(S::Text(quote)),
            (S::Escape(quote), _) if byte >= 0x20 && may_stand_in_text(byte) => {
                Move::Into(S::Text(quote))
            }
            (S::Text(_) | S::Escape(_), _) => Move::Wrong,

            (S::Minus, b'0') => Move::Into(S::Zero),
            (S::Minus, b'1'..=b'9') => Move::Into(S::Digits),
            (S::Digits, b'0'..=b'9') => Move::Into(S::Digits),
            (S::Zero | S::Digits, b'.') => Move::Into(S::Point),
            (S::Zero | S::Digits | S::Fraction, b'e' | b'E') => Move::Into(S::Exponent),
            (S::Point | S::Fraction, b'0'..=b'9') => Move::Into(S::Fraction),
            (S::Exponent, b'+' | b'-') => Move::Into(S::ExponentSign),
            (S::Exponent | S::ExponentSign | S::ExponentDigits, b'0'..=b'9') => {
                Move::Into(S::ExponentDigits)
            }
            (S::Minus | S::Point | S::Exponent | S::ExponentSign, _) | (S::Zero, b'0'..=b'9') => {
                Move::Wrong
            }
            (S::Zero | S::Digits | S::Fraction | S::ExponentDigits, _) => {
                Move::Before(TokenKind::Number)
            }

            (S::Keyword, b'a'..=b'z') => Move::Into(S::Keyword),
            (S::Keyword, _) => Move::Before(TokenKind::Keyword),
        }
    }
}

fn start(byte: u8) -> Move {
    match byte {
        b'{' => Move::Last(TokenKind::OpenBrace),
        b'}' => Move::Last(TokenKind::CloseBrace),
        b'[' => Move::Last(TokenKind::OpenBracket),
        b']' => Move::Last(TokenKind::CloseBracket),
        b':' => Move::Last(TokenKind::Colon),
        b',' => Move::Last(TokenKind::Comma),
        b'"' | b'\'' => Move::Into(State::Text(byte)),
        b'-' => Move::Into(State::Minus),
        b'0' => Move::Into(State::Zero),
        b'1'..=b'9' => Move::Into(State::Digits),
        b'a'..=b'z' => Move::Into(State::Keyword),
        b' ' | b'\t' | b'\r' | b'\n' => Move::Skip,
        _ => Move::Wrong,
    }
}

/// Bytes that no text in UTF-8 has, and control characters, end nowhere in a string.
fn may_stand_in_text(byte: u8) -> bool {
    matches!(byte, 0x20..=0xBF | 0xC2..=0xF4)
}

fn ends_recovery(byte: u8) -> bool {
    matches!(
        byte,
        b'{' | b'}' | b'[' | b']' | b':' | b',' | 0..=8 | 10..=31 | 0xFE | 0xFF
    )
}
