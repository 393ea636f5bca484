//! One walk over a tree against the table of keys: canonical names, converted values, all problems; what is bad is dropped.

use super::scalar::{convert, plural, read_bool};
use super::schema::{Kind, Scalar, Shape, Status};
use super::tree::{Key, Node, Sources, Span, Value};
use crate::problem::{Problem, Severity};
use crate::units::Name;

/// What a walk has found.
#[derive(Debug, Default)]
pub struct Checked {
    /// All that is wrong, in the order it is written.
    pub problems: Vec<Problem>,
    /// Objects with a name of their own that cannot be used; they are not in the tree any more.
    pub broken: Vec<BrokenObject>,
}

/// A router, service, middleware, entry point and so on that cannot be used.
#[derive(Debug)]
pub struct BrokenObject {
    /// What it is one of: `http.routers`.
    pub kind: String,
    /// Its name, as written.
    pub name: Box<str>,
    /// What is wrong with it.
    pub problems: Box<[Problem]>,
    /// What is left of it without what is wrong.
    pub rest: Node,
}

/// What is done with keys at the root that are not in the table.
pub type RootRule<'a> = &'a dyn Fn(&str) -> Unknown;

/// What is done with an unknown key at the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It belongs to someone else.
    Passed,
    /// It is named, and left out.
    Warned,
}

/// Checks `root` against `shape` and brings it into canonical form.
///
/// Names of other objects are qualified with `provider`, if there is one.
pub fn check(
    root: &mut Node,
    shape: &Shape,
    sources: &Sources,
    provider: Option<&str>,
    unknown: RootRule<'_>,
) -> Checked {
    let mut walk = Walk { sources, provider, path: String::new(), failures: 0, found: Checked::default() };
    match &mut root.value {
        Value::Map(entries) => {
            entries.retain_mut(|(key, _)| {
                let known = shape.field(&key.name).is_some();
                if !known && unknown(&key.name) == Unknown::Warned {
                    let problem = Problem::warning(&*key.name, "unknown key, it is ignored");
                    walk.found.problems.push(advised(problem, shape, &key.name).placed(sources.place(key.span)));
                }
                known
            });
            walk.fields(shape, entries, Status::Acts);
        }
        other => {
            let message = format!("expected keys and values, found {}", other.describe());
            walk.fail(message, None, root.span);
            *root = Node::empty(root.span);
        }
    }
    walk.found
}

struct Walk<'a> {
    sources: &'a Sources,
    provider: Option<&'a str>,
    path: String,
    /// Problems that disable the object they stand in.
    failures: usize,
    found: Checked,
}

impl Walk<'_> {
    /// Checks each key of a section.
    fn fields(&mut self, shape: &Shape, entries: &mut Vec<(Key, Node)>, status: Status) {
        let mut kept: Vec<(Key, Node)> = Vec::with_capacity(entries.len());
        for (mut key, mut node) in std::mem::take(entries) {
            let length = self.enter(&key.name);
            match shape.field(&key.name) {
                None => {
                    let help = shape.nearest_field(&key.name).map(|near| format!("did you mean `{near}`?"));
                    self.fail("unknown key".to_owned(), help, key.span);
                }
                Some(field) if kept.iter().any(|(other, _)| other.name == field.name) => {
                    self.fail(format!("is written twice, as keys have no case: `{}`", field.name), None, key.span);
                }
                Some(field) => {
                    if key.name != field.name {
                        key.name = field.name.clone();
                        self.path.truncate(length);
                        self.enter(&field.name);
                    }
                    if self.field(field, &key, &mut node, status) {
                        kept.push((key, node));
                    }
                }
            }
            self.path.truncate(length);
        }
        *entries = kept;
    }

    /// Checks one known key. Says whether it stays.
    fn field(&mut self, shape: &Shape, key: &Key, node: &mut Node, parent: Status) -> bool {
        let status = shape.status.unwrap_or(parent);
        match status {
            Status::Acts => self.value(shape, node, status),
            Status::Inert => {
                self.value(shape, node, Status::Acts);
                false
            }
            Status::Refused | Status::Ignored | Status::Removed => {
                // What is switched off, not there, or no more than the default asks for nothing.
                if !is_wanted(shape, node) {
                    return false;
                }
                let (message, advice) = match status {
                    Status::Removed => ("Traefik 3 does not have this key any more", shape.note),
                    _ => ("this key is not supported yet", shape.note),
                };
                let failures = self.failures;
                self.fail(message.to_owned(), (!advice.is_empty()).then(|| advice.to_owned()), key.span);
                if status == Status::Ignored {
                    // What is left out takes nothing else along, so it is no reason to stop.
                    self.failures = failures;
                    if let Some(problem) = self.found.problems.last_mut() {
                        problem.severity = Severity::Warning;
                    }
                }
                false
            }
        }
    }

    /// Checks and converts a value. Says whether it stays.
    fn value(&mut self, shape: &Shape, node: &mut Node, status: Status) -> bool {
        match shape.kind {
            Kind::Section | Kind::Switch => self.section(shape, node, status),
            Kind::Names => self.names(shape, node, status),
            Kind::Items => self.items(shape, node, status),
            Kind::One(scalar) => self.scalar(scalar, node),
            Kind::Many(scalar) => self.list(scalar, node),
            Kind::Each(scalar) => self.map(scalar, node),
            Kind::Any => true,
        }
    }

    fn section(&mut self, shape: &Shape, node: &mut Node, status: Status) -> bool {
        let is_switch = shape.kind == Kind::Switch;
        match &mut node.value {
            Value::Map(entries) => {
                self.fields(shape, entries, status);
                true
            }
            Value::Null => {
                node.value = Value::Map(Vec::new());
                is_switch
            }
            Value::List(_) => self.unexpected("keys and values", node),
            scalar if is_switch => {
                let is_on = read_bool(scalar);
                if is_on.is_none() {
                    let message =
                        format!("is switched off, because it is neither keys nor `true` but {}", scalar.describe());
                    let place = self.sources.place(node.span);
                    self.found.problems.push(Problem::warning(&self.path, message).placed(place));
                }
                node.value = Value::Map(Vec::new());
                is_on == Some(true)
            }
            _ => self.unexpected("keys and values", node),
        }
    }

    fn names(&mut self, shape: &Shape, node: &mut Node, status: Status) -> bool {
        let Some(each) = &shape.each else { return true };
        let status = each.status.unwrap_or(status);
        let entries = match &mut node.value {
            Value::Map(entries) => entries,
            Value::Null => return false,
            _ => return self.unexpected("names, each with keys and values", node),
        };
        let outer = self.failures;
        entries.retain_mut(|(key, node)| {
            let length = self.enter(&key.name);
            let start = self.found.problems.len();
            self.failures = 0;
            let is_empty = node.value == Value::Null && each.kind == Kind::Section && status == Status::Acts;
            if is_empty {
                self.fail("nothing is written below it".to_owned(), None, key.span);
            }
            let stays = self.field(each, key, node, status);
            self.path.truncate(length);
            if self.failures == 0 {
                return stays;
            }
            self.found.broken.push(BrokenObject {
                kind: self.path.clone(),
                name: (&*key.name).into(),
                problems: self.found.problems.get(start..).unwrap_or_default().into(),
                rest: std::mem::replace(node, Node::empty(node.span)),
            });
            false
        });
        self.failures = outer;
        true
    }

    fn items(&mut self, shape: &Shape, node: &mut Node, status: Status) -> bool {
        let Some(each) = &shape.each else { return true };
        let status = each.status.unwrap_or(status);
        let items = match &mut node.value {
            Value::List(items) => items,
            Value::Null => return false,
            _ => return self.unexpected("a list of sections", node),
        };
        let mut index = 0;
        items.retain_mut(|item| {
            let length = self.path.len();
            self.path += &format!("[{index}]");
            index += 1;
            let key = Key { name: "".into(), span: item.span };
            let stays = item.value != Value::Null && self.field(each, &key, item, status);
            self.path.truncate(length);
            stays
        });
        true
    }

    fn list(&mut self, scalar: Scalar, node: &mut Node) -> bool {
        match &mut node.value {
            Value::Null => return false,
            Value::Map(_) => return self.unexpected(&format!("a list of {}", plural(scalar)), node),
            Value::List(_) => {}
            Value::Str(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                let items = parts.map(|part| Node::new(Value::Str(part.into()), node.span)).collect();
                node.value = Value::List(items);
            }
            _ => {
                let item = Node::new(std::mem::replace(&mut node.value, Value::Null), node.span);
                node.value = Value::List(vec![item]);
            }
        }
        let Value::List(items) = &mut node.value else { return true };
        let mut index = 0;
        items.retain_mut(|item| {
            let length = self.path.len();
            self.path += &format!("[{index}]");
            index += 1;
            let stays = self.scalar(scalar, item);
            self.path.truncate(length);
            stays
        });
        true
    }

    fn map(&mut self, scalar: Scalar, node: &mut Node) -> bool {
        match &mut node.value {
            Value::Map(entries) => {
                entries.retain_mut(|(key, node)| {
                    // An empty value means something here: a header to remove.
                    if scalar == Scalar::Text && node.value == Value::Null {
                        node.value = Value::Str("".into());
                    }
                    let length = self.enter(&key.name);
                    let stays = self.scalar(scalar, node);
                    self.path.truncate(length);
                    stays
                });
                true
            }
            Value::Null => false,
            _ => self.unexpected("names and values", node),
        }
    }

    fn scalar(&mut self, scalar: Scalar, node: &mut Node) -> bool {
        if node.value == Value::Null {
            return false;
        }
        match convert(scalar, &node.value) {
            Ok(converted) => {
                node.value = converted;
                self.qualify(scalar, node);
                true
            }
            Err(message) => {
                self.fail(message, None, node.span);
                false
            }
        }
    }

    /// A bare reference stays within its provider.
    fn qualify(&self, scalar: Scalar, node: &mut Node) {
        if let (Scalar::Name, Some(provider), Value::Str(text)) = (scalar, self.provider, &mut node.value)
            && !text.is_empty()
            && !text.contains('@')
        {
            *text = Name::qualified(text, provider).as_str().into();
        }
    }

    fn unexpected(&mut self, expected: &str, node: &Node) -> bool {
        self.fail(format!("expected {expected}, found {}", node.value.describe()), None, node.span);
        false
    }

    fn fail(&mut self, message: String, help: Option<String>, span: Span) {
        self.failures += 1;
        let problem = Problem { help, ..Problem::at(&self.path, message) };
        self.found.problems.push(problem.placed(self.sources.place(span)));
    }

    /// Adds a segment to the path, and says how long it was before.
    fn enter(&mut self, segment: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path += segment;
        length
    }
}

fn advised(problem: Problem, shape: &Shape, name: &str) -> Problem {
    match shape.nearest_field(name) {
        Some(near) => problem.with_help(format!("did you mean `{near}`?")),
        None => problem,
    }
}

/// Whether someone who writes this wants something of a key that cannot act.
fn is_wanted(shape: &Shape, node: &Node) -> bool {
    match (shape.kind, &node.value) {
        (_, Value::Null) => matches!(shape.kind, Kind::Switch),
        (Kind::Switch, Value::Map(_) | Value::List(_)) => true,
        (Kind::Switch, scalar) => read_bool(scalar) != Some(false),
        (Kind::One(Scalar::Text | Scalar::Name), Value::Str(text)) if text.is_empty() => false,
        (_, Value::List(items)) => !items.is_empty(),
        (Kind::One(scalar), written) => match (convert(scalar, written), shape.default) {
            (Ok(Value::Bool(false)), "") => false,
            (Ok(converted), default) if !default.is_empty() => {
                convert(scalar, &Value::Str(default.into())) != Ok(converted)
            }
            _ => true,
        },
        _ => true,
    }
}

#[cfg(test)]
mod tests;
