//! Words of `.gir` text, with their places.

use super::parse::ParseError;
use super::print::is_plain;
use std::borrow::Cow;

/// A place in the text, both counted from 1; columns are characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    pub line: usize,
    pub column: usize,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Token<'t> {
    /// `rms_norm`, `func`, `bf16`.
    Word(&'t str),
    /// `12`, `-1.5e-6`; what it means is up to the reader.
    Number(&'t str),
    /// `"text"`.
    Text(Cow<'t, str>),
    /// `@name` or `@"name"`.
    At(Cow<'t, str>),
    /// `%12`.
    Value(u32),
    /// `?seq`.
    Symbol(&'t str),
    /// One of `{}[](),:=+`.
    Mark(char),
    /// The text is over.
    End,
}

impl Token<'_> {
    pub fn describe(&self) -> String {
        match self {
            Token::Word(word) => format!("`{}`", clip(word)),
            Token::Number(number) => format!("`{}`", clip(number)),
            Token::Text(text) => format!("\"{}\"", clip(text)),
            Token::At(name) => format!("`@{}`", clip(name)),
            Token::Value(id) => format!("`%{id}`"),
            Token::Symbol(symbol) => format!("`?{}`", clip(symbol)),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::End => "the end of the text".to_owned(),
        }
    }
}

/// Enough of a word to recognise it in a one-line message.
pub(super) fn clip(word: &str) -> String {
    let mut out: String = word.chars().take(60).flat_map(char::escape_debug).collect();
    if word.chars().nth(60).is_some() {
        out.push_str("...");
    }
    out
}

#[derive(Clone)]
pub(super) struct Lexer<'t> {
    rest: &'t str,
    spot: Spot,
}

impl<'t> Lexer<'t> {
    pub fn new(text: &'t str) -> Self {
        Self {
            rest: text,
            spot: Spot { line: 1, column: 1 },
        }
    }

    /// The next word and where it begins.
    pub fn next(&mut self) -> Result<(Token<'t>, Spot), ParseError> {
        self.skip_blank();
        let spot = self.spot;
        let Some(first) = self.rest.chars().next() else {
            return Ok((Token::End, spot));
        };
        let token = match first {
            '{' | '}' | '[' | ']' | '(' | ')' | ',' | ':' | '=' | '+' => {
                self.take(1);
                Token::Mark(first)
            }
            '"' => Token::Text(self.quoted()?),
            '@' => {
                self.take(1);
                if self.rest.starts_with('"') {
                    Token::At(self.quoted()?)
                } else {
                    let name = self.word();
                    if !is_plain(name) {
                        return Err(ParseError::new(
                            spot,
                            "expected a name after `@`".to_owned(),
                        ));
                    }
                    Token::At(Cow::Borrowed(name))
                }
            }
            '%' => {
                self.take(1);
                let digits = self.take_while(|c| c.is_ascii_digit());
                let id = digits.parse().map_err(|_| {
                    let got = clip(digits);
                    ParseError::new(
                        spot,
                        format!("expected a value's number after `%`, found `{got}`"),
                    )
                })?;
                Token::Value(id)
            }
            '?' => {
                self.take(1);
                Token::Symbol(self.word())
            }
            '-' | '0'..='9' => {
                let len = number_len(self.rest);
                Token::Number(self.take(len))
            }
            c if c.is_ascii_alphabetic() || c == '_' => Token::Word(self.word()),
            other => {
                let message = format!("unexpected character `{}`", other.escape_debug());
                return Err(ParseError::new(spot, message));
            }
        };
        Ok((token, spot))
    }

    fn skip_blank(&mut self) {
        loop {
            let before = self.rest.len();
            self.take_while(char::is_whitespace);
            if self.rest.starts_with("//") {
                self.take_while(|c| c != '\n');
            }
            if self.rest.len() == before {
                return;
            }
        }
    }

    fn word(&mut self) -> &'t str {
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let len = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        self.take(len)
    }

    /// Takes `len` bytes, which must end between characters.
    fn take(&mut self, len: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(len);
        for c in taken.chars() {
            if c == '\n' {
                self.spot.line += 1;
                self.spot.column = 1;
            } else {
                self.spot.column += 1;
            }
        }
        self.rest = rest;
        taken
    }

    /// A quoted text, `rest` being at its opening quote.
    fn quoted(&mut self) -> Result<Cow<'t, str>, ParseError> {
        let start = self.spot;
        self.take(1);
        let plain = self.take_while(|c| !matches!(c, '"' | '\\' | '\n'));
        if self.rest.starts_with('"') {
            self.take(1);
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = plain.to_owned();
        loop {
            text.push_str(self.take_while(|c| !matches!(c, '"' | '\\' | '\n')));
            let spot = self.spot;
            if self.rest.starts_with('"') {
                self.take(1);
                return Ok(Cow::Owned(text));
            }
            if !self.rest.starts_with('\\') {
                return Err(ParseError::new(
                    start,
                    "this text has no closing `\"`".to_owned(),
                ));
            }
            self.take(1);
            let escape = self.rest.chars().next();
            match escape {
                Some('"') => text.push('"'),
                Some('\\') => text.push('\\'),
                Some('n') => text.push('\n'),
                Some('u') => {
                    text.push(self.unicode(spot)?);
                    continue;
                }
                _ => {
                    let message = "expected `\\\"`, `\\\\`, `\\n` or `\\u{..}`".to_owned();
                    return Err(ParseError::new(spot, message));
                }
            }
            self.take(1);
        }
    }

    /// `u{1f}` of an escape.
    fn unicode(&mut self, spot: Spot) -> Result<char, ParseError> {
        self.take(1);
        let inner = self
            .rest
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let code = inner.filter(|(hex, _)| hex.len() <= 6);
        let c = code.and_then(|(hex, _)| char::from_u32(u32::from_str_radix(hex, 16).ok()?));
        match (code, c) {
            (Some((hex, _)), Some(c)) => {
                self.take(hex.len() + 2);
                Ok(c)
            }
            _ => Err(ParseError::new(
                spot,
                "expected `\\u{hex}` of a character".to_owned(),
            )),
        }
    }
}

/// Bytes of the number at the start of `text`: a sign, digits and dots, an exponent with its own sign.
fn number_len(text: &str) -> usize {
    let mut previous = b' ';
    for (i, b) in text.bytes().enumerate() {
        let sign = (b == b'-' || b == b'+') && matches!(previous, b'e' | b'E');
        let part = b.is_ascii_alphanumeric() || b == b'.' || b == b'_' || sign;
        if !(part || i == 0) {
            return i;
        }
        previous = b;
    }
    text.len()
}
