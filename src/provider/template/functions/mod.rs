//! The functions of templates: Go's own, and those of sprig that Traefik's users write.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::LazyLock;

use super::Fault;
use super::value::{Heap, List, MapId, Misuse, Value};

mod encode;
mod lists;
mod logic;
mod maps;
mod numbers;
mod text;
mod words;

/// A function by its name.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    least: usize,
    most: usize,
    pub(super) body: Body,
}

/// What a function does.
#[derive(Clone, Copy)]
pub(super) enum Body {
    /// Takes all of its arguments evaluated.
    Plain(fn(&mut Call<'_, '_>) -> Result<Value, Misuse>),
    /// Stops at the first argument that has this truth: `and`, `or`.
    FirstThat(bool),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}

/// As many arguments as one likes.
const MANY: usize = usize::MAX;

/// A function that takes `least` to `most` arguments.
const fn plain(
    name: &'static str,
    least: usize,
    most: usize,
    body: fn(&mut Call<'_, '_>) -> Result<Value, Misuse>,
) -> Function {
    Function { name, least, most, body: Body::Plain(body) }
}

impl Function {
    /// Refuses a wrong number of arguments.
    pub(super) fn check_count(&self, count: usize) -> Result<(), Misuse> {
        if (self.least..=self.most).contains(&count) {
            return Ok(());
        }
        let wanted = match (self.least, self.most) {
            (least, MANY) => format!("at least {least}"),
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        Err(format!("`{}` takes {wanted} arguments, not {count}", self.name))
    }
}

/// The arguments of a function, and what it may use.
pub(super) struct Call<'c, 'e> {
    pub(super) heap: &'c mut Heap<'e>,
    pub(super) arguments: &'c [Value],
}

impl<'c> Call<'c, '_> {
    /// The argument at `index`, from 0.
    fn value(&self, index: usize) -> &'c Value {
        self.arguments.get(index).unwrap_or(&Value::Nil)
    }

    /// The arguments from `index` on.
    fn rest(&self, index: usize) -> &'c [Value] {
        self.arguments.get(index..).unwrap_or_default()
    }

    fn text(&self, index: usize) -> Result<&'c str, Misuse> {
        match self.value(index) {
            Value::Text(text) => Ok(text),
            other => Err(unfit(index, "a text", other)),
        }
    }

    fn int(&self, index: usize) -> Result<i64, Misuse> {
        match self.value(index) {
            Value::Int(value) => Ok(*value),
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => Ok(*value as i64),
            other => Err(unfit(index, "a whole number", other)),
        }
    }

    fn bool(&self, index: usize) -> Result<bool, Misuse> {
        match self.value(index) {
            Value::Bool(value) => Ok(*value),
            other => Err(unfit(index, "`true` or `false`", other)),
        }
    }

    fn list(&self, index: usize) -> Result<&'c Rc<List>, Misuse> {
        match self.value(index) {
            Value::List(list) => Ok(list),
            other => Err(unfit(index, "a list", other)),
        }
    }

    fn map(&self, index: usize) -> Result<MapId, Misuse> {
        match self.value(index) {
            Value::Map(id) => Ok(*id),
            other => Err(unfit(index, "a map", other)),
        }
    }

    /// Any value as text, as `%v` writes it.
    fn written(&mut self, value: &Value) -> Result<String, Misuse> {
        super::format::text_of(self.heap, value)
    }
}

fn unfit(index: usize, wanted: &str, found: &Value) -> Misuse {
    format!("argument {} must be {wanted}, found {}", index + 1, found.describe())
}

static FUNCTIONS: LazyLock<HashMap<&'static str, &'static Function>> = LazyLock::new(|| {
    let tables = [logic::TABLE, numbers::TABLE, text::TABLE, words::TABLE, lists::TABLE, maps::TABLE, encode::TABLE];
    tables.into_iter().flatten().map(|function| (function.name, function)).collect()
});

/// Functions that Traefik has and this engine has not, each with the reason.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "what it makes differs each time, so that every look at the file would be a change",
        &[
            "now",
            "date",
            "dateInZone",
            "dateModify",
            "ago",
            "htmlDate",
            "unixEpoch",
            "uuidv4",
            "randAlpha",
            "randAlphaNum",
            "randAscii",
            "randNumeric",
            "randInt",
            "randBytes",
            "shuffle",
            "bcrypt",
            "htpasswd",
            "genPrivateKey",
            "genCA",
            "genSelfSignedCert",
            "genSignedCert",
            "encryptAES",
        ],
    ),
    ("a template must not ask the network", &["getHostByName"]),
    ("there are no functions as values", &["call"]),
];

/// The function called `name`, which stands at `at`.
pub(super) fn find(name: &str, at: usize) -> Result<&'static Function, Fault> {
    if let Some(function) = FUNCTIONS.get(name) {
        return Ok(function);
    }
    if let Some((reason, _)) = REFUSED.iter().find(|(_, names)| names.contains(&name)) {
        return Err(Fault::new(at, format!("the function `{name}` is not supported: {reason}")));
    }
    let fault = Fault::new(at, format!("there is no function called `{name}`"));
    Err(match nearest(name, FUNCTIONS.keys().copied()) {
        Some(near) => fault.with_help(format!("did you mean `{near}`?")),
        None => fault,
    })
}

/// The name that `written` was perhaps meant to be.
pub(super) fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if written.len() > 64 {
        return None;
    }
    let farthest = (written.chars().count() / 3).clamp(1, 3);
    let distance = |name: &&str| strsim::damerau_levenshtein(&name.to_lowercase(), &written.to_lowercase());
    let near = names.map(|name| (distance(&name), name)).filter(|(distance, _)| *distance <= farthest);
    near.min().map(|(_, name)| name)
}

/// The names of all functions.
#[cfg(test)]
pub(super) fn names() -> Vec<&'static str> {
    let mut names = FUNCTIONS.keys().copied().collect::<Vec<_>>();
    names.sort_unstable();
    names
}
