//! Rule text → tokens, by the lexical rules of Go: raw and interpreted strings, comments, any white space between.

use std::iter::Peekable;
use std::str::Chars;

use super::RuleError;

/// One word of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A name: `Host`.
    Name(String),
    /// A string, its escapes resolved.
    Text(String),
    /// `(`
    Open,
    /// `)`
    Close,
    /// `,`
    Comma,
    /// `&&`
    And,
    /// `||`
    Or,
    /// `!`
    Not,
    /// The text is over.
    End,
}

impl Token {
    /// How it is called in a message.
    pub fn describe(&self) -> String {
        match self {
            Self::Name(name) => format!("`{name}`"),
            Self::Text(text) => format!("the string \"{}\"", text.escape_debug()),
            Self::Open => "`(`".into(),
            Self::Close => "`)`".into(),
            Self::Comma => "`,`".into(),
            Self::And => "`&&`".into(),
            Self::Or => "`||`".into(),
            Self::Not => "`!`".into(),
            Self::End => "the end of the rule".into(),
        }
    }
}

/// Splits a rule into tokens, one at a time.
pub struct Lexer<'t> {
    chars: Peekable<Chars<'t>>,
    column: usize,
}

impl<'t> Lexer<'t> {
    /// Starts at the first character of `text`.
    pub fn new(text: &'t str) -> Self {
        Self { chars: text.chars().peekable(), column: 1 }
    }

    /// The next token and the column (in characters, from 1) where it starts. At the end: [`Token::End`], again and again.
    ///
    /// # Errors
    /// A character or string that Go would not read either.
    pub fn next_token(&mut self) -> Result<(Token, usize), RuleError> {
        self.skip_blank()?;
        let column = self.column;
        let Some(first) = self.bump() else { return Ok((Token::End, column)) };
        let token = match first {
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '!' => Token::Not,
            '&' => self.doubled('&', column).map(|()| Token::And)?,
            '|' => self.doubled('|', column).map(|()| Token::Or)?,
            '`' => Token::Text(self.raw_string(column)?),
            '"' => Token::Text(self.interpreted_string(column)?),
            '\'' => {
                return Err(RuleError::new(column, "single quotes do not hold strings")
                    .with_help("write the string between back quotes: Host(`example.com`)"));
            }
            letter if is_letter(letter) => Token::Name(self.name(letter)),
            '\u{201c}' | '\u{201d}' | '\u{2018}' | '\u{2019}' => {
                return Err(RuleError::new(column, format!("`{first}` is a typographic quote"))
                    .with_help("write the string between back quotes: Host(`example.com`)"));
            }
            digit if digit.is_ascii_digit() => {
                return Err(
                    RuleError::new(column, "a number cannot stand here").with_help("matchers take strings only")
                );
            }
            other => return Err(RuleError::new(column, format!("`{}` cannot stand here", other.escape_debug()))),
        };
        Ok((token, column))
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.chars.next()?;
        self.column += 1;
        Some(next)
    }

    fn skip_blank(&mut self) -> Result<(), RuleError> {
        loop {
            match self.chars.peek() {
                Some(' ' | '\t' | '\r' | '\n') => {
                    self.bump();
                }
                Some('/') => self.comment()?,
                _ => return Ok(()),
            }
        }
    }

    /// `// …` up to the end of the line, or `/* … */`.
    fn comment(&mut self) -> Result<(), RuleError> {
        let column = self.column;
        self.bump();
        match self.bump() {
            Some('/') => while self.bump().is_some_and(|next| next != '\n') {},
            Some('*') => loop {
                match self.bump() {
                    Some('*') if self.chars.peek() == Some(&'/') => {
                        self.bump();
                        break;
                    }
                    Some(_) => {}
                    None => return Err(RuleError::new(column, "this comment does not end")),
                }
            },
            _ => {
                return Err(
                    RuleError::new(column, "`/` cannot stand here").with_help("paths are strings: PathPrefix(`/api`)")
                );
            }
        }
        Ok(())
    }

    fn doubled(&mut self, sign: char, column: usize) -> Result<(), RuleError> {
        if self.chars.peek() == Some(&sign) {
            self.bump();
            return Ok(());
        }
        Err(RuleError::new(column, format!("`{sign}` is no operator")).with_help(format!("write `{sign}{sign}`")))
    }

    fn name(&mut self, first: char) -> String {
        let mut name = String::from(first);
        while let Some(next) = self.chars.next_if(|next| is_letter(*next) || next.is_numeric()) {
            self.column += 1;
            name.push(next);
        }
        name
    }

    fn raw_string(&mut self, column: usize) -> Result<String, RuleError> {
        let mut text = String::new();
        loop {
            match self.bump() {
                Some('`') => return Ok(text),
                // Go drops carriage returns from raw strings.
                Some('\r') => {}
                Some(next) => text.push(next),
                None => return Err(RuleError::new(column, "this string does not end").with_help("add a back quote")),
            }
        }
    }

    fn interpreted_string(&mut self, column: usize) -> Result<String, RuleError> {
        let mut bytes = Vec::new();
        loop {
            let at = self.column;
            match self.bump() {
                Some('"') => break,
                Some('\\') => self.escape(at, &mut bytes)?,
                Some('\n') | None => {
                    return Err(RuleError::new(column, "this string does not end").with_help("add a `\"`"));
                }
                Some(next) => bytes.extend_from_slice(next.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        String::from_utf8(bytes)
            .map_err(|_| RuleError::new(column, "the escapes in this string do not make valid UTF-8"))
    }

    /// What stands after a backslash.
    fn escape(&mut self, column: usize, bytes: &mut Vec<u8>) -> Result<(), RuleError> {
        let invalid = || {
            RuleError::new(column, "unknown escape in a string")
                .with_help("between back quotes, backslashes stand for themselves")
        };
        let kind = self.bump().ok_or_else(invalid)?;
        match kind {
            'a' => bytes.push(0x07),
            'b' => bytes.push(0x08),
            'f' => bytes.push(0x0c),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(0x0b),
            '\\' | '"' => bytes.push(kind as u8),
            '0'..='7' => {
                let first = kind.to_digit(8).ok_or_else(invalid)?;
                let value = self.digits(first, 2, 8).ok_or_else(invalid)?;
                bytes.push(u8::try_from(value).map_err(|_| invalid())?);
            }
            'x' => {
                let value = self.digits(0, 2, 16).ok_or_else(invalid)?;
                bytes.push(u8::try_from(value).map_err(|_| invalid())?);
            }
            'u' | 'U' => {
                let count = if kind == 'u' { 4 } else { 8 };
                let value = self.digits(0, count, 16).and_then(char::from_u32).ok_or_else(invalid)?;
                bytes.extend_from_slice(value.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(invalid()),
        }
        Ok(())
    }

    /// Exactly `count` more digits after the value read so far.
    fn digits(&mut self, mut value: u32, count: usize, radix: u32) -> Option<u32> {
        for _ in 0..count {
            let digit = self.bump()?.to_digit(radix)?;
            value = value.checked_mul(radix)?.checked_add(digit)?;
        }
        Some(value)
    }
}

fn is_letter(letter: char) -> bool {
    letter.is_alphabetic() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Vec<Token>, RuleError> {
        let mut lexer = Lexer::new(text);
        let mut tokens = Vec::new();
        loop {
            match lexer.next_token()?.0 {
                Token::End => return Ok(tokens),
                token => tokens.push(token),
            }
        }
    }

    #[test]
    fn reads_signs_names_blanks_and_comments() {
        use Token::{And, Close, Comma, Name, Not, Open, Or};
        let text = "!a_1 &&\t( ü||\r\n,) // rest\n/* && */ b";
        let expected = vec![Not, Name("a_1".into()), And, Open, Name("ü".into()), Or, Comma, Close, Name("b".into())];
        assert_eq!(tokens(text).unwrap(), expected);
    }

    #[test]
    fn strings_are_those_of_go() {
        for (text, expected) in [
            ("``", ""),
            (r"`a\nb`", r"a\nb"),
            ("`a\r\nb`", "a\nb"),
            (r#""a\tb\\\"""#, "a\tb\\\""),
            (r#""\a\b\f\v\r\n""#, "\u{7}\u{8}\u{c}\u{b}\r\n"),
            (r#""\101\x41A\U0001F600""#, "AAA😀"),
            (r#""\xc3\xa9""#, "é"),
            (r#""'`""#, "'`"),
        ] {
            assert_eq!(tokens(text).unwrap(), vec![Token::Text(expected.into())], "{text}");
        }
    }

    #[test]
    fn refuses_with_the_column() {
        for (text, column) in [
            ("a `b", 3),
            ("\"b", 1),
            ("\"b\n\"", 1),
            ("'a'", 1),
            ("a & b", 3),
            ("a | b", 3),
            ("é 12", 3),
            ("a ; b", 3),
            ("/api", 1),
            ("/* a", 1),
            (r#""a\q""#, 3),
            (r#""\'""#, 2),
            (r#""\400""#, 2),
            (r#""\ud800""#, 2),
            (r#""\xff""#, 1),
            (r#""\x4"#, 2),
        ] {
            assert_eq!(tokens(text).unwrap_err().column, column, "{text}");
        }
    }
}
