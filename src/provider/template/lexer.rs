//! Template text → tokens: what stands between actions, and the words within them.

use super::Fault;

/// A piece of a template.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'t> {
    /// What stands between actions, trimmed as the actions say.
    Text(&'t str),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// A keyword or the name of a function.
    Word(&'t str),
    /// `$` or `$name`, with its sign.
    Variable(&'t str),
    /// `.name`, without its dot.
    Field(&'t str),
    /// `.`
    Dot,
    /// A number as written.
    Number(&'t str),
    /// A character in single quotes, as written.
    Char(&'t str),
    /// A string in double quotes, as written.
    Quoted(&'t str),
    /// A string in back quotes, without them.
    Raw(&'t str),
    /// `|`
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
    /// `(`
    Left,
    /// `)`
    Right,
}

impl Token<'_> {
    /// How it is called in a message.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Text(_) => "text".into(),
            Self::Open => "`{{`".into(),
            Self::Close => "`}}`".into(),
            Self::Field(name) => format!("`.{name}`"),
            Self::Dot => "`.`".into(),
            Self::Raw(text) => format!("`{text}`"),
            Self::Pipe => "`|`".into(),
            Self::Declare => "`:=`".into(),
            Self::Assign => "`=`".into(),
            Self::Comma => "`,`".into(),
            Self::Left => "`(`".into(),
            Self::Right => "`)`".into(),
            Self::Word(text) | Self::Variable(text) | Self::Number(text) | Self::Char(text) | Self::Quoted(text) => {
                format!("`{text}`")
            }
        }
    }
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spanned<'t> {
    pub(super) token: Token<'t>,
    /// Byte offset.
    pub(super) at: usize,
    /// Whether white space stands before it.
    pub(super) spaced: bool,
}

/// Splits a template into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<Spanned<'_>>, Fault> {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new() };
    let mut trims = false;
    loop {
        let from = lexer.at;
        let Some(length) = lexer.rest().find("{{") else {
            let last = lexer.rest();
            lexer.text(from, if trims { last.trim_start_matches(is_space) } else { last });
            return Ok(lexer.tokens);
        };
        let mut between = &lexer.rest()[..length];
        lexer.at += length;
        let open = lexer.at;
        lexer.at += 2;
        if trims {
            between = between.trim_start_matches(is_space);
        }
        if let Some(after) = lexer.rest().strip_prefix('-')
            && after.starts_with(is_space)
        {
            lexer.at += 2;
            between = between.trim_end_matches(is_space);
        }
        lexer.text(from, between);
        trims = if lexer.rest().starts_with("/*") { lexer.comment(open)? } else { lexer.action(open)? };
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    tokens: Vec<Spanned<'t>>,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn text(&mut self, at: usize, text: &'t str) {
        if !text.is_empty() {
            self.tokens.push(Spanned { token: Token::Text(text), at, spaced: false });
        }
    }

    /// Skips a comment; whether white space behind it is trimmed.
    fn comment(&mut self, open: usize) -> Result<bool, Fault> {
        let end = self.rest().find("*/").ok_or_else(|| Fault::new(open, "the comment has no `*/`"))?;
        self.at += end + 2;
        self.close()
            .ok_or_else(|| Fault::new(self.at, "a comment must be alone between `{{` and `}}`"))
            .inspect(|close| self.at += close.length)
            .map(|close| close.trims)
    }

    /// Reads up to `}}`; whether white space behind it is trimmed.
    fn action(&mut self, open: usize) -> Result<bool, Fault> {
        self.tokens.push(Spanned { token: Token::Open, at: open, spaced: false });
        let mut spaced = true;
        loop {
            if let Some(close) = self.close() {
                self.tokens.push(Spanned { token: Token::Close, at: self.at, spaced });
                self.at += close.length;
                return Ok(close.trims);
            }
            let Some(first) = self.rest().chars().next() else {
                return Err(Fault::new(open, "the action has no `}}`"));
            };
            if is_space(first) {
                self.at += 1;
                spaced = true;
                continue;
            }
            let at = self.at;
            let token = self.token(first)?;
            self.tokens.push(Spanned { token, at, spaced });
            spaced = false;
        }
    }

    /// The end of an action, if it is here.
    fn close(&self) -> Option<Close> {
        let rest = self.rest();
        if rest.starts_with("}}") {
            return Some(Close { length: 2, trims: false });
        }
        let marked = rest.starts_with(is_space) && rest.get(1..)?.starts_with("-}}");
        marked.then_some(Close { length: 4, trims: true })
    }

    fn token(&mut self, first: char) -> Result<Token<'t>, Fault> {
        let rest = self.rest();
        let after = &rest[first.len_utf8()..];
        let word = after.find(|letter: char| !is_word(letter)).unwrap_or(after.len());
        let single = |token| Ok((token, 1));
        let (token, length) = match first {
            '|' => single(Token::Pipe),
            ',' => single(Token::Comma),
            '(' => single(Token::Left),
            ')' => single(Token::Right),
            ':' if after.starts_with('=') => Ok((Token::Declare, 2)),
            '=' => single(Token::Assign),
            '"' => self.quoted('"').map(|text| (Token::Quoted(text), text.len())),
            '\'' => self.quoted('\'').map(|text| (Token::Char(text), text.len())),
            '`' => match after.find('`') {
                Some(end) => Ok((Token::Raw(&after[..end]), end + 2)),
                None => Err(Fault::new(self.at, "the raw string has no closing back quote")),
            },
            '$' => Ok((Token::Variable(&rest[..=word]), word + 1)),
            '.' if after.starts_with(|digit: char| digit.is_ascii_digit()) => self.number(),
            '.' if word > 0 => Ok((Token::Field(&after[..word]), word + 1)),
            '.' => single(Token::Dot),
            '+' | '-' | '0'..='9' => self.number(),
            letter if is_word(letter) => {
                let length = letter.len_utf8() + word;
                Ok((Token::Word(&rest[..length]), length))
            }
            other => Err(Fault::new(self.at, format!("`{}` has no meaning here", other.escape_debug()))),
        }?;
        self.at += length;
        Ok(token)
    }

    /// A string or character with its quotes.
    fn quoted(&self, quote: char) -> Result<&'t str, Fault> {
        let mut escaped = false;
        for (index, letter) in self.rest().char_indices().skip(1) {
            match letter {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if letter == quote => return Ok(&self.rest()[..=index]),
                _ => {}
            }
        }
        Err(Fault::new(self.at, format!("the string has no closing {quote}")))
    }

    fn number(&self) -> Result<(Token<'t>, usize), Fault> {
        let rest = self.rest();
        let signed = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        let is_hex = signed.starts_with("0x") || signed.starts_with("0X");
        let mut previous = ' ';
        let ends = |letter: char| {
            let sign = matches!(letter, '+' | '-') && !is_hex && matches!(previous, 'e' | 'E');
            previous = letter;
            !(sign || letter == '.' || is_word(letter))
        };
        let end = rest.len() - signed.len() + signed.find(ends).unwrap_or(signed.len());
        let number = rest.get(..end).unwrap_or_default();
        if !number.contains(|digit: char| digit.is_ascii_digit()) {
            return Err(Fault::new(self.at, format!("`{number}` is not a number")));
        }
        Ok((Token::Number(number), end))
    }
}

struct Close {
    length: usize,
    trims: bool,
}

/// The white space that Go trims and skips.
fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\r' | '\n')
}

fn is_word(letter: char) -> bool {
    letter == '_' || letter.is_alphanumeric()
}
