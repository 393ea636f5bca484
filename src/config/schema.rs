//! Every key there is: its type, its default and whether it acts, from the tables in `keys/`.

use std::sync::{Arc, LazyLock};

use hashbrown::HashMap;

use super::tree::same_key;

/// Keys that are read at start.
pub static STATIC: LazyLock<Shape> = LazyLock::new(|| Shape::read(include_str!("keys/static.tsv")));
/// Keys that may change at any time.
pub static DYNAMIC: LazyLock<Shape> = LazyLock::new(|| Shape::read(include_str!("keys/dynamic.tsv")));

/// What a key may hold, and the keys below it.
#[derive(Debug)]
pub struct Shape {
    /// As people write it. Shared with the tree.
    pub name: Arc<str>,
    /// Its type.
    pub kind: Kind,
    /// What it is if it is not written; empty if that is nothing, or not one fixed value.
    pub default: &'static str,
    /// Whether it acts. As its parent, if the table does not say.
    pub status: Option<Status>,
    /// What people should know about it.
    pub note: &'static str,
    /// Keys below it that are known by name.
    pub fields: Vec<Self>,
    /// What each key chosen by the user holds, or each item of a list of sections.
    pub each: Option<Box<Self>>,
    by_name: HashMap<Box<str>, usize, ahash::RandomState>,
}

/// The type of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keys below it.
    Section,
    /// Keys below it, or just `true`.
    Switch,
    /// Keys chosen by the user, each with the same shape.
    Names,
    /// A list of sections of the same shape.
    Items,
    /// One value.
    One(Scalar),
    /// A list of values.
    Many(Scalar),
    /// Keys chosen by the user, each with one value.
    Each(Scalar),
    /// Whatever is written.
    Any,
}

/// The type of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Yes or no.
    Bool,
    /// A whole number of 64 bits.
    Int,
    /// A whole number of 32 bits.
    Int32,
    /// A number.
    Float,
    /// Text.
    Text,
    /// Seconds, or `1m30s`.
    Duration,
    /// The name of another object; a bare one belongs to the same provider.
    Name,
}

/// Whether a key acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does what it says.
    Acts,
    /// It cannot act yet, and its router, service, middleware or entry point must not run without it.
    Refused,
    /// It cannot act yet, and is left out.
    Ignored,
    /// There is nothing it would have to do.
    Inert,
    /// Traefik 3 does not have it any more.
    Removed,
}

impl Shape {
    /// Builds the shape of the root from a table of tab-separated path, type, default, status and note.
    fn read(table: &'static str) -> Self {
        let mut root = Self::new("", Kind::Section);
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let mut columns = line.split('\t');
            let mut next = || columns.next().unwrap_or_default();
            let (path, kind, default, status, note) = (next(), next(), next(), next(), next());
            let shape = root.at(path);
            shape.kind = if path.ends_with("[n]") { Kind::Section } else { read_kind(kind) };
            (shape.default, shape.status, shape.note) = (default, read_status(status), note);
        }
        root
    }

    fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.into(),
            kind,
            default: "",
            status: None,
            note: "",
            fields: Vec::new(),
            each: None,
            by_name: HashMap::default(),
        }
    }

    /// The shape at a path, made if it is not there yet.
    fn at(&mut self, path: &str) -> &mut Self {
        let mut shape = self;
        for segment in path.split('.') {
            let (name, is_list) = match segment.strip_suffix("[n]") {
                Some(name) => (name, true),
                None => (segment, false),
            };
            shape = if name == "<name>" { shape.each_of(Kind::Names) } else { shape.field_or_new(name) };
            if is_list {
                shape = shape.each_of(Kind::Items);
            }
        }
        shape
    }

    fn each_of(&mut self, kind: Kind) -> &mut Self {
        self.kind = kind;
        self.each.get_or_insert_with(|| Box::new(Self::new("", Kind::Section)))
    }

    fn field_or_new(&mut self, name: &str) -> &mut Self {
        let index = *self.by_name.entry_ref(name).or_insert_with(|| {
            self.fields.push(Self::new(name, Kind::Section));
            self.fields.len() - 1
        });
        &mut self.fields[index]
    }

    /// The field that `name` means, whatever its case.
    pub fn field(&self, name: &str) -> Option<&Self> {
        match self.by_name.get(name) {
            Some(index) => self.fields.get(*index),
            None => self.fields.iter().find(|field| same_key(&field.name, name)),
        }
    }

    /// The field that someone who wrote `name` probably meant.
    pub fn nearest_field(&self, name: &str) -> Option<&str> {
        nearest(
            name,
            self.fields.iter().filter(|field| field.status != Some(Status::Removed)).map(|field| &*field.name),
        )
    }

    /// Whether it may be written without a value, and means "on" then.
    pub fn may_stand_alone(&self) -> bool {
        matches!(self.kind, Kind::Section | Kind::Switch | Kind::One(Scalar::Bool))
    }
}

/// The candidate that is nearest to `name`, if any is near enough to be a slip of the finger.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let limit = (name.chars().count() / 3).clamp(1, 4);
    candidates
        .map(|candidate| (strsim::osa_distance(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn read_kind(text: &str) -> Kind {
    match text {
        "section" => Kind::Section,
        "switch" => Kind::Switch,
        "any" => Kind::Any,
        _ => match (text.strip_prefix("list of "), text.strip_prefix("map of ")) {
            (Some(items), _) => Kind::Many(read_scalar(items)),
            (_, Some(values)) => Kind::Each(read_scalar(values)),
            _ => Kind::One(read_scalar(text)),
        },
    }
}

fn read_scalar(text: &str) -> Scalar {
    match text {
        "bool" => Scalar::Bool,
        "int" => Scalar::Int,
        "int32" => Scalar::Int32,
        "float" => Scalar::Float,
        "duration" => Scalar::Duration,
        "name" => Scalar::Name,
        _ => Scalar::Text,
    }
}

fn read_status(text: &str) -> Option<Status> {
    match text {
        "acts" => Some(Status::Acts),
        "refused" => Some(Status::Refused),
        "ignored" => Some(Status::Ignored),
        "inert" => Some(Status::Inert),
        "removed" => Some(Status::Removed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TABLES: [(&str, &LazyLock<Shape>); 2] =
        [(include_str!("keys/static.tsv"), &STATIC), (include_str!("keys/dynamic.tsv"), &DYNAMIC)];

    fn find<'a>(root: &'a Shape, path: &str) -> Option<&'a Shape> {
        path.split('.').try_fold(root, |shape, segment| match segment.strip_suffix("[n]") {
            Some(name) => shape.field(name)?.each.as_deref(),
            None if segment == "<name>" => shape.each.as_deref(),
            None => shape.field(segment),
        })
    }

    #[test]
    fn the_tables_are_well_formed() {
        for (table, root) in TABLES {
            let mut seen = HashSet::new();
            for line in table.lines().skip(1) {
                let columns = line.split('\t').collect::<Vec<_>>();
                let (path, kind) = (columns[0], columns[1]);
                let status = columns.get(3).copied().unwrap_or_default();
                let note = columns.get(4).copied().unwrap_or_default();
                assert!(columns.len() <= 5 && seen.insert(path), "{line}");
                let scalars = ["bool", "int", "int32", "float", "string", "duration", "name"];
                let word = kind.trim_start_matches("list of ").trim_start_matches("map of ");
                assert!(scalars.contains(&word) || ["section", "switch", "any"].contains(&word), "{line}");
                assert!(["", "acts", "refused", "ignored", "inert", "removed"].contains(&status), "{line}");
                assert!(["", "acts"].contains(&status) || !note.is_empty(), "a reason is missing: {line}");
                assert!(find(root, path).is_some(), "{line}");
                assert!(find(root, &path.to_uppercase().replace("<NAME>", "<name>").replace("[N]", "[n]")).is_some());
            }
        }
    }

    #[test]
    fn every_key_of_traefik_is_there() {
        let keys = |table: &str| {
            let lines = table.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
            lines.filter(|c| !c.get(4).is_some_and(|n| n.starts_with("ours:")) && c.get(3) != Some(&"removed")).count()
        };
        assert_eq!((keys(TABLES[0].0), keys(TABLES[1].0)), (590, 440));
    }

    #[test]
    fn slips_of_the_finger_are_recognised() {
        for (written, meant) in [
            ("entrypoint", Some("entryPoints")),
            ("acceslog", Some("accessLog")),
            ("providrs", Some("providers")),
            ("pong", Some("ping")),
            ("zzz", None),
        ] {
            assert_eq!(STATIC.nearest_field(written), meant, "{written}");
        }
    }
}
