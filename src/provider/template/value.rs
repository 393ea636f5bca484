//! What a template calculates with, and the budget it may spend.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::units::Pattern;

/// Most levels of lists and maps within each other.
pub(super) const NESTING_LIMIT: u16 = 64;
/// How much one evaluation may do: an action, an item or sixteen bytes of text each cost one.
const BUDGET: u64 = 32_000_000;
/// Most patterns that are kept compiled.
const PATTERN_LIMIT: usize = 64;

/// Why something cannot be calculated.
pub(super) type Misuse = String;

/// A value. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    List(Rc<List>),
    Map(MapId),
}

/// Values in order. Its depth is kept, so that no list can be built that is too deep to drop or print.
#[derive(Debug)]
pub(super) struct List {
    pub(super) items: Vec<Value>,
    depth: u16,
}

/// A map of the heap. Clones mean the same map, as in Go: `set` is seen through all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapId(usize);

pub(super) type Map = BTreeMap<Rc<str>, Value>;

impl Value {
    pub(super) fn text(text: impl Into<Rc<str>>) -> Self {
        Self::Text(text.into())
    }

    /// What it is, in a phrase that fits behind "found".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Nil => "no value".into(),
            Self::Bool(value) => format!("`{value}`"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(text) if text.chars().count() > 40 => {
                format!("the text \"{}…\"", text.chars().take(40).collect::<String>().escape_debug())
            }
            Self::Text(text) => format!("the text \"{}\"", text.escape_debug()),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a map".into(),
        }
    }

    fn depth(&self) -> u16 {
        match self {
            Self::List(list) => list.depth,
            _ => 0,
        }
    }
}

/// Owns all maps of one evaluation, which may refer to each other in circles, and counts what is spent.
pub(super) struct Heap<'e> {
    maps: Vec<Map>,
    nothing: Map,
    patterns: HashMap<Rc<str>, Pattern>,
    budget: u64,
    pub(super) environment: &'e dyn Fn(&str) -> Option<String>,
}

impl<'e> Heap<'e> {
    pub(super) fn new(environment: &'e dyn Fn(&str) -> Option<String>) -> Self {
        Self { maps: Vec::new(), nothing: Map::new(), patterns: HashMap::new(), budget: BUDGET, environment }
    }

    /// Spends some of the budget.
    pub(super) fn charge(&mut self, cost: usize) -> Result<(), Misuse> {
        let left = self.budget.checked_sub(cost as u64 + 1);
        self.budget = left.ok_or("the template does more than it may")?;
        Ok(())
    }

    /// A text; it costs what it holds.
    pub(super) fn text(&mut self, text: impl Into<Rc<str>>) -> Result<Value, Misuse> {
        let text = text.into();
        self.charge(text.len() / 16)?;
        Ok(Value::Text(text))
    }

    /// A list; it costs what it holds.
    pub(super) fn list(&mut self, items: Vec<Value>) -> Result<Value, Misuse> {
        self.charge(items.len())?;
        let depth = items.iter().map(Value::depth).max().unwrap_or(0) + 1;
        if depth > NESTING_LIMIT {
            return Err(format!("more than {NESTING_LIMIT} lists within each other"));
        }
        Ok(Value::List(Rc::new(List { items, depth })))
    }

    /// A list of texts.
    pub(super) fn texts<T: Into<Rc<str>>>(&mut self, texts: impl Iterator<Item = T>) -> Result<Value, Misuse> {
        let items = texts.map(|text| self.text(text)).collect::<Result<_, _>>()?;
        self.list(items)
    }

    /// A map; it costs what it holds.
    pub(super) fn add_map(&mut self, map: Map) -> Result<Value, Misuse> {
        self.charge(map.len() + 2)?;
        self.maps.push(map);
        Ok(Value::Map(MapId(self.maps.len() - 1)))
    }

    pub(super) fn map(&self, id: MapId) -> &Map {
        // Every id was made by this heap; the fallback only keeps the look-up total.
        self.maps.get(id.0).unwrap_or(&self.nothing)
    }

    /// Puts a value into a map.
    pub(super) fn insert(&mut self, id: MapId, key: Rc<str>, value: Value) -> Result<(), Misuse> {
        self.charge(2)?;
        if let Some(map) = self.maps.get_mut(id.0) {
            map.insert(key, value);
        }
        Ok(())
    }

    /// Takes a key out of a map.
    pub(super) fn remove(&mut self, id: MapId, key: &str) {
        if let Some(map) = self.maps.get_mut(id.0) {
            map.remove(key);
        }
    }

    /// Compiles a pattern, once.
    pub(super) fn pattern(&mut self, text: &str) -> Result<Pattern, Misuse> {
        if let Some(pattern) = self.patterns.get(text) {
            return Ok(pattern.clone());
        }
        self.charge(2_000)?;
        let pattern = Pattern::new(text)?;
        if self.patterns.len() >= PATTERN_LIMIT {
            self.patterns.clear();
        }
        self.patterns.insert(text.into(), pattern.clone());
        Ok(pattern)
    }

    /// Go's truth: neither nothing, nor zero, nor empty.
    pub(super) fn is_true(&self, value: &Value) -> bool {
        match value {
            Value::Nil => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(list) => !list.items.is_empty(),
            Value::Map(id) => !self.map(*id).is_empty(),
        }
    }

    /// Whether two values are the same through and through.
    pub(super) fn same(&mut self, a: &Value, b: &Value) -> Result<bool, Misuse> {
        self.same_within(a, b, NESTING_LIMIT)
    }

    fn same_within(&mut self, a: &Value, b: &Value, levels: u16) -> Result<bool, Misuse> {
        self.charge(0)?;
        let levels = levels.checked_sub(1).ok_or_else(too_deep)?;
        Ok(match (a, b) {
            (Value::Nil, Value::Nil) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::List(a), Value::List(b)) if a.items.len() == b.items.len() => {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !self.same_within(a, b, levels)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Map(a), Value::Map(b)) if a == b => true,
            (Value::Map(a), Value::Map(b)) if self.map(*a).len() == self.map(*b).len() => {
                let (a, b) = (self.map(*a).clone(), self.map(*b).clone());
                for (key, value) in &a {
                    match b.get(key) {
                        Some(other) if self.same_within(value, other, levels)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            _ => false,
        })
    }
}

/// What is said of a value that is nested too deeply, or in itself.
pub(super) fn too_deep() -> Misuse {
    format!("a value has more than {NESTING_LIMIT} levels, or is within itself")
}
