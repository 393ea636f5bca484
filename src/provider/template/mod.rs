//! Go's text templates with the functions that Traefik adds, bounded in time, memory and output.
//!
//! A file that Traefik reads as a template is read alike here. What cannot be done is said with line and column,
//! and never rendered as something else.

use std::collections::HashMap;
use std::rc::Rc;

use crate::problem::{Place, Problem};

mod eval;
mod format;
mod functions;
mod json;
mod lexer;
mod parser;
mod value;

use parser::Node;

/// Largest template, in bytes.
pub const SIZE_LIMIT_BYTES: usize = 16 << 20;
/// Largest text that a template may make, in bytes.
pub const OUTPUT_LIMIT_BYTES: usize = 64 << 20;
/// Most levels of actions within actions, counted through templates that call templates.
const DEPTH_LIMIT: usize = 100;

/// Whether `text` has anything to evaluate.
pub fn is_template(text: &str) -> bool {
    text.contains("{{")
}

/// Evaluates `text`, which is known to people as `source`. `environment` looks up what `env` asks for.
///
/// # Errors
/// What is wrong with the template, with line and column.
pub fn render(text: &str, source: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, Problem> {
    let rendered = Template::parse(text).and_then(|template| eval::render(&template, environment));
    rendered.map_err(|fault| fault.into_problem(text, source))
}

/// A template that can be evaluated.
#[derive(Debug)]
struct Template {
    main: Rc<[Node]>,
    named: HashMap<Rc<str>, Rc<[Node]>>,
}

impl Template {
    fn parse(text: &str) -> Result<Self, Fault> {
        if text.len() > SIZE_LIMIT_BYTES {
            return Err(Fault::new(0, format!("the template is larger than {SIZE_LIMIT_BYTES} bytes")));
        }
        parser::parse(lexer::tokens(text)?, text.len())
    }
}

/// Why a template cannot be read or evaluated.
#[derive(Debug)]
struct Fault {
    /// Byte offset into the template.
    at: usize,
    message: String,
    help: Option<String>,
}

impl Fault {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), help: None }
    }

    fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn into_problem(self, text: &str, source: &str) -> Problem {
        let (line, column) = position(text, self.at);
        let problem = Problem::at("", format!("template: {}", self.message)).placed(Some(Place {
            source: source.into(),
            line,
            column,
        }));
        match self.help {
            Some(help) => problem.with_help(help),
            None => problem,
        }
    }
}

/// Line and column of a byte offset, both from 1.
fn position(text: &str, at: usize) -> (u32, u32) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
