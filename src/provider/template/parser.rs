//! Tokens → tree, by the grammar of Go's text/template.

use std::collections::HashMap;
use std::rc::Rc;

use super::functions::{self, Function};
use super::lexer::{Spanned, Token};
use super::value::Value;
use super::{DEPTH_LIMIT, Fault, Template};

/// What a template is made of.
#[derive(Debug)]
pub(super) enum Node {
    Text(Rc<str>),
    /// A pipeline whose value is written, unless it only sets a variable.
    Print(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
    /// Evaluates a named template with the value of the pipeline as its dot.
    Template {
        at: usize,
        name: Rc<str>,
        dot: Option<Pipeline>,
    },
    Break,
    Continue,
}

/// A condition and what depends on it.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) pipeline: Pipeline,
    pub(super) body: Rc<[Node]>,
    pub(super) otherwise: Rc<[Node]>,
}

/// Commands, each of which takes the value of the one before as its last argument.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) at: usize,
    /// The variables that take its value; two only in `range`.
    pub(super) variables: Vec<Rc<str>>,
    /// Whether the variables exist already.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

/// A function with its arguments, or a single value.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) first: Operand,
    pub(super) arguments: Vec<Operand>,
}

/// A value, or a part of it.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) at: usize,
    pub(super) term: Term,
    /// `.a.b` behind it.
    pub(super) fields: Vec<Rc<str>>,
}

#[derive(Debug)]
pub(super) enum Term {
    Dot,
    Literal(Value),
    Variable(Rc<str>),
    Function(&'static Function),
    Pipeline(Box<Pipeline>),
}

/// Reads tokens of a template that is `length` bytes long.
pub(super) fn parse(tokens: Vec<Spanned<'_>>, length: usize) -> Result<Template, Fault> {
    let mut parser = Parser {
        tokens,
        position: 0,
        end: length,
        variables: vec!["$".into()],
        loops: 0,
        depth: 0,
        named: HashMap::new(),
        called: Vec::new(),
    };
    let (main, stop) = parser.list()?;
    match stop {
        Stop::Finished => {}
        Stop::End(at) => return Err(Fault::new(at, "`end` without anything to end")),
        Stop::Else(at) => return Err(Fault::new(at, "`else` without `if`, `with` or `range`")),
    }
    if let Some((at, name)) = parser.called.iter().find(|(_, name)| !parser.named.contains_key(name)) {
        let names = parser.named.keys().map(|name| &**name);
        let fault = Fault::new(*at, format!("there is no template called `{name}`"));
        return Err(match functions::nearest(name, names) {
            Some(near) => fault.with_help(format!("did you mean `{near}`?")),
            None => fault.with_help(format!("write `{{{{ define \"{name}\" }}}}…{{{{ end }}}}` in the same file")),
        });
    }
    Ok(Template { main, named: parser.named })
}

/// What a list of nodes was ended by.
enum Stop {
    Finished,
    End(usize),
    /// What follows `else` is still to be read.
    Else(usize),
}

#[derive(Clone, Copy, PartialEq)]
enum Control {
    If,
    With,
    Range,
}

struct Parser<'t> {
    tokens: Vec<Spanned<'t>>,
    position: usize,
    end: usize,
    variables: Vec<Rc<str>>,
    loops: usize,
    depth: usize,
    named: HashMap<Rc<str>, Rc<[Node]>>,
    called: Vec<(usize, Rc<str>)>,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<Token<'t>> {
        self.ahead(0).map(|spanned| spanned.token)
    }

    fn ahead(&self, distance: usize) -> Option<Spanned<'t>> {
        self.tokens.get(self.position + distance).copied()
    }

    fn next(&mut self) -> Result<Spanned<'t>, Fault> {
        let next = self.ahead(0).ok_or_else(|| Fault::new(self.end, "the template ends too early"))?;
        self.position += 1;
        Ok(next)
    }

    fn expect(&mut self, wanted: Token<'t>, after: &str) -> Result<(), Fault> {
        let found = self.next()?;
        if found.token == wanted {
            return Ok(());
        }
        let message = format!("expected {} after {after}, found {}", wanted.describe(), found.token.describe());
        Err(Fault::new(found.at, message))
    }

    /// Nodes up to `end`, `else` or the end of the text.
    fn list(&mut self) -> Result<(Rc<[Node]>, Stop), Fault> {
        let mut nodes = Vec::new();
        while let Some(Spanned { token, at, .. }) = self.ahead(0) {
            self.position += 1;
            if let Token::Text(text) = token {
                nodes.push(Node::Text(text.into()));
                continue;
            }
            let keyword = match self.peek() {
                Some(Token::Word(word)) if is_keyword(word) => word,
                _ => {
                    nodes.push(Node::Print(self.pipeline(Token::Close, false)?));
                    continue;
                }
            };
            self.next()?;
            match keyword {
                "end" => {
                    self.expect(Token::Close, "`end`")?;
                    return Ok((nodes.into(), Stop::End(at)));
                }
                "else" => return Ok((nodes.into(), Stop::Else(at))),
                "define" => self.define(at)?,
                other => nodes.push(self.keyword(other, at)?),
            }
        }
        Ok((nodes.into(), Stop::Finished))
    }

    fn keyword(&mut self, keyword: &str, at: usize) -> Result<Node, Fault> {
        match keyword {
            "if" => self.control(Control::If, at).map(Node::If),
            "with" => self.control(Control::With, at).map(Node::With),
            "range" => self.control(Control::Range, at).map(Node::Range),
            "block" => self.block(at),
            "template" => self.template(at),
            "break" | "continue" if self.loops == 0 => {
                Err(Fault::new(at, format!("`{keyword}` works only within `range`")))
            }
            "break" => self.expect(Token::Close, "`break`").map(|()| Node::Break),
            "continue" => self.expect(Token::Close, "`continue`").map(|()| Node::Continue),
            other => Err(Fault::new(at, format!("`{other}` cannot be the first word of an action"))),
        }
    }

    fn control(&mut self, control: Control, at: usize) -> Result<Branch, Fault> {
        self.enter(at)?;
        let known = self.variables.len();
        let pipeline = self.pipeline(Token::Close, control == Control::Range)?;
        let within = self.variables.len();
        self.loops += usize::from(control == Control::Range);
        let (body, stop) = self.list()?;
        self.loops -= usize::from(control == Control::Range);
        self.variables.truncate(within);
        let otherwise = match stop {
            Stop::End(_) => Rc::default(),
            Stop::Else(at) => self.otherwise(control, at)?,
            Stop::Finished => return Err(unended(at)),
        };
        self.variables.truncate(known);
        self.depth -= 1;
        Ok(Branch { pipeline, body, otherwise })
    }

    fn otherwise(&mut self, control: Control, at: usize) -> Result<Rc<[Node]>, Fault> {
        let chained = match (control, self.peek()) {
            (Control::If, Some(Token::Word("if"))) => Some(Node::If as fn(Branch) -> Node),
            (Control::With, Some(Token::Word("with"))) => Some(Node::With as fn(Branch) -> Node),
            _ => None,
        };
        if let Some(node) = chained {
            self.next()?;
            return Ok(Rc::new([node(self.control(control, at)?)]));
        }
        self.expect(Token::Close, "`else`")?;
        match self.list()? {
            (nodes, Stop::End(_)) => Ok(nodes),
            (_, Stop::Else(at)) => Err(Fault::new(at, "a second `else`")),
            (_, Stop::Finished) => Err(unended(at)),
        }
    }

    fn enter(&mut self, at: usize) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            return Err(Fault::new(at, format!("more than {DEPTH_LIMIT} actions within each other")));
        }
        Ok(())
    }

    fn define(&mut self, at: usize) -> Result<(), Fault> {
        if self.depth > 0 {
            return Err(Fault::new(at, "`define` must not stand within another action"));
        }
        let name = self.name("`define`")?;
        self.expect(Token::Close, "the name of a template")?;
        self.named_body(name, at)
    }

    /// Reads the body of a named template, which knows none of the variables around it.
    fn named_body(&mut self, name: Rc<str>, at: usize) -> Result<(), Fault> {
        self.enter(at)?;
        let variables = std::mem::replace(&mut self.variables, vec!["$".into()]);
        let loops = std::mem::take(&mut self.loops);
        let (body, stop) = self.list()?;
        match stop {
            Stop::End(_) => {}
            Stop::Else(at) => return Err(Fault::new(at, "`else` without `if`, `with` or `range`")),
            Stop::Finished => return Err(unended(at)),
        }
        self.variables = variables;
        self.loops = loops;
        self.depth -= 1;
        if self.named.contains_key(&name) {
            return Err(Fault::new(at, format!("the template `{name}` is defined twice")));
        }
        self.named.insert(name, body);
        Ok(())
    }

    fn block(&mut self, at: usize) -> Result<Node, Fault> {
        let name = self.name("`block`")?;
        let dot = self.pipeline(Token::Close, false)?;
        self.named_body(name.clone(), at)?;
        Ok(Node::Template { at, name, dot: Some(dot) })
    }

    fn template(&mut self, at: usize) -> Result<Node, Fault> {
        let name = self.name("`template`")?;
        let dot = match self.peek() {
            Some(Token::Close) => {
                self.next()?;
                None
            }
            _ => Some(self.pipeline(Token::Close, false)?),
        };
        self.called.push((at, name.clone()));
        Ok(Node::Template { at, name, dot })
    }

    fn name(&mut self, after: &str) -> Result<Rc<str>, Fault> {
        let found = self.next()?;
        match found.token {
            Token::Raw(text) => Ok(text.into()),
            Token::Quoted(text) => unquote(text, found.at).map(Into::into),
            other => Err(Fault::new(found.at, format!("expected a name after {after}, found {}", other.describe()))),
        }
    }

    /// Reads up to and including `closing`.
    fn pipeline(&mut self, closing: Token<'t>, in_range: bool) -> Result<Pipeline, Fault> {
        let at = self.ahead(0).map_or(self.end, |spanned| spanned.at);
        let (variables, assigns) = self.declaration(closing, in_range)?;
        let mut commands = Vec::new();
        loop {
            let command = self.command(closing)?;
            if !commands.is_empty() && !matches!(command.first.term, Term::Function(_)) {
                let callable = matches!(command.first.term, Term::Variable(_) | Term::Pipeline(_));
                let message = if callable { "only functions can" } else { "only functions, not values, can" };
                return Err(Fault::new(command.first.at, format!("{message} stand behind `|`")));
            }
            commands.push(command);
            let next = self.next()?;
            match next.token {
                Token::Pipe => {}
                token if token == closing => break,
                other => return Err(Fault::new(next.at, format!("{} has no meaning here", other.describe()))),
            }
        }
        if !assigns {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline { at, variables, assigns, commands })
    }

    /// `$x :=`, `$x =` or, in `range`, `$i, $x :=`.
    fn declaration(&mut self, closing: Token<'t>, in_range: bool) -> Result<(Vec<Rc<str>>, bool), Fault> {
        let token = |distance| self.ahead(distance).map(|spanned| spanned.token);
        let names = match (token(0), token(1)) {
            (Some(Token::Variable(name)), Some(Token::Declare | Token::Assign)) => vec![name],
            (Some(Token::Variable(name)), Some(Token::Comma)) if in_range => match token(2) {
                Some(Token::Variable(other)) => vec![name, other],
                _ => return Ok((Vec::new(), false)),
            },
            _ => return Ok((Vec::new(), false)),
        };
        let at = self.next()?.at;
        for _ in 1..names.len() * 2 - 1 {
            self.next()?;
        }
        let sign = self.next()?;
        let assigns = match sign.token {
            Token::Assign => true,
            Token::Declare => false,
            other => return Err(Fault::new(sign.at, format!("expected `:=`, found {}", other.describe()))),
        };
        if closing == Token::Right {
            return Err(Fault::new(at, "a variable cannot be set within parentheses"));
        }
        if let Some(name) = names.iter().find(|name| assigns && !self.knows(name)) {
            return Err(Fault::new(at, format!("the variable `{name}` is not known here"))
                .with_help(format!("declare it with `{name} := …`")));
        }
        Ok((names.into_iter().map(Into::into).collect(), assigns))
    }

    fn knows(&self, variable: &str) -> bool {
        self.variables.iter().any(|known| &**known == variable)
    }

    fn command(&mut self, closing: Token<'t>) -> Result<Command, Fault> {
        let first = self.operand(closing)?;
        let mut arguments = Vec::new();
        loop {
            match self.ahead(0) {
                Some(next) if next.token == Token::Pipe || next.token == closing => break,
                Some(next) if !next.spaced => {
                    let message = format!("expected a space before {}", next.token.describe());
                    return Err(Fault::new(next.at, message));
                }
                _ => arguments.push(self.operand(closing)?),
            }
        }
        if matches!(first.term, Term::Literal(Value::Nil)) {
            return Err(Fault::new(first.at, "`nil` is only an argument"));
        }
        let called = matches!(first.term, Term::Function(_)) && first.fields.is_empty();
        if let (false, Some(argument)) = (called, arguments.first()) {
            return Err(Fault::new(argument.at, "only functions take arguments"));
        }
        Ok(Command { first, arguments })
    }

    fn operand(&mut self, closing: Token<'t>) -> Result<Operand, Fault> {
        let Spanned { token, at, .. } = self.next()?;
        let mut fields = Vec::new();
        let term = match token {
            Token::Dot => Term::Dot,
            Token::Field(name) => {
                fields.push(name.into());
                Term::Dot
            }
            Token::Variable(name) if self.knows(name) => Term::Variable(name.into()),
            Token::Variable(name) => {
                let fault = Fault::new(at, format!("the variable `{name}` is not known here"));
                let near = functions::nearest(name, self.variables.iter().skip(1).map(|known| &**known));
                return Err(match near {
                    Some(near) => fault.with_help(format!("did you mean `{near}`?")),
                    None => fault,
                });
            }
            Token::Quoted(text) => Term::Literal(Value::text(unquote(text, at)?)),
            Token::Raw(text) => Term::Literal(Value::text(text)),
            Token::Char(text) => Term::Literal(character(text, at)?),
            Token::Number(text) => Term::Literal(number(text, at)?),
            Token::Word("true") => Term::Literal(Value::Bool(true)),
            Token::Word("false") => Term::Literal(Value::Bool(false)),
            Token::Word("nil") => Term::Literal(Value::Nil),
            Token::Word(word) if is_keyword(word) => {
                return Err(Fault::new(at, format!("`{word}` must be the first word of an action")));
            }
            Token::Word(name) => Term::Function(functions::find(name, at)?),
            Token::Left => {
                self.enter(at)?;
                let inner = self.pipeline(Token::Right, false)?;
                self.depth -= 1;
                Term::Pipeline(Box::new(inner))
            }
            other if other == closing => return Err(Fault::new(at, "a value is missing")),
            other => return Err(Fault::new(at, format!("expected a value, found {}", other.describe()))),
        };
        while let Some(Spanned { token: Token::Field(name), spaced: false, at }) = self.ahead(0) {
            if matches!(term, Term::Literal(_)) || (matches!(term, Term::Dot) && fields.is_empty()) {
                return Err(Fault::new(at, format!("expected a space before `.{name}`")));
            }
            fields.push(name.into());
            self.next()?;
        }
        Ok(Operand { at, term, fields })
    }
}

fn is_keyword(word: &str) -> bool {
    matches!(word, "if" | "else" | "end" | "with" | "range" | "define" | "block" | "template" | "break" | "continue")
}

fn unended(at: usize) -> Fault {
    Fault::new(at, "this has no `{{ end }}`")
}

/// What a string in double quotes means.
fn unquote(quoted: &str, at: usize) -> Result<String, Fault> {
    let inner = quoted.get(1..quoted.len() - 1).unwrap_or_default();
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(index) = rest.find('\\') {
        bytes.extend_from_slice(rest.get(..index).unwrap_or_default().as_bytes());
        let escape = rest.get(index + 1..).unwrap_or_default();
        let (meaning, length) =
            unescape(escape).ok_or_else(|| Fault::new(at, format!("an escape of {quoted} is unknown")))?;
        match meaning {
            Escape::Byte(byte) => bytes.push(byte),
            Escape::Char(letter) => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        rest = escape.get(length..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).map_err(|_| Fault::new(at, format!("{quoted} is not UTF-8")))
}

enum Escape {
    Byte(u8),
    Char(char),
}

/// What stands behind a backslash: its meaning and length.
fn unescape(escape: &str) -> Option<(Escape, usize)> {
    let first = escape.chars().next()?;
    let code = |digits: &str, radix: u32| u32::from_str_radix(digits, radix).ok();
    let short = match first {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '\\' | '"' | '\'' => first,
        'x' => return Some((Escape::Byte(u8::try_from(code(escape.get(1..3)?, 16)?).ok()?), 3)),
        'u' => return Some((Escape::Char(char::from_u32(code(escape.get(1..5)?, 16)?)?), 5)),
        'U' => return Some((Escape::Char(char::from_u32(code(escape.get(1..9)?, 16)?)?), 9)),
        '0'..='7' => return Some((Escape::Byte(u8::try_from(code(escape.get(..3)?, 8)?).ok()?), 3)),
        _ => return None,
    };
    Some((Escape::Char(short), 1))
}

/// A character constant is a number in Go.
fn character(quoted: &str, at: usize) -> Result<Value, Fault> {
    let text = unquote(quoted, at)?;
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => Ok(Value::Int(i64::from(u32::from(letter)))),
        _ => Err(Fault::new(at, format!("{quoted} is not one character")).with_help("put text into double quotes")),
    }
}

/// A number as Go writes it: decimal, `0x`, `0o`, `0b`, with underscores, with a fraction or an exponent.
fn number(text: &str, at: usize) -> Result<Value, Fault> {
    whole_number(text)
        .map(Value::Int)
        .or_else(|| {
            let digits = text.replace('_', "");
            let decimal = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
            let value = digits.parse::<f64>().ok().filter(|value| decimal && value.is_finite())?;
            let fraction = digits.contains(['.', 'e', 'E']);
            fraction.then_some(Value::Float(value))
        })
        .ok_or_else(|| Fault::new(at, format!("`{text}` is not a number that can be used here")))
}

/// A whole number as Go's `ParseInt` reads it with base 0.
pub(super) fn whole_number(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some(octal) if octal.starts_with('0') => (8, &lower[1..]),
        _ => (10, &*lower),
    };
    let digits = digits.replace('_', "");
    if !digits.starts_with(|digit: char| digit.is_ascii_hexdigit()) {
        return None;
    }
    let value = i128::from_str_radix(&digits, radix).ok()?;
    i64::try_from(if negative { -value } else { value }).ok()
}
