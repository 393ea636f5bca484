//! Where something is written, found by reading the files again: asked only when there is a problem to show.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::NAME;
use super::joined::holds;
use super::stamp::Stamp;
use super::written::Raw;
use crate::config::Routing;
use crate::config::format::parse;
use crate::config::tree::{Node, Sources, Span, Value, same_key};
use crate::control::Locate;
use crate::problem::Place;
use crate::units::Name;

/// A file up to this size stays parsed, in bytes.
const KEPT_LIMIT_BYTES: usize = 16 << 20;
/// How much is parsed to find places of one configuration, in bytes.
const BUDGET_BYTES: usize = 512 << 20;

/// Finds places in the files that a configuration was read from.
pub(super) struct Places {
    files: Vec<(PathBuf, Arc<Routing>)>,
    search: Mutex<Search>,
}

struct Search {
    budget: usize,
    kept: Option<(usize, Stamp, Arc<Parsed>)>,
}

struct Parsed {
    tree: Node,
    sources: Sources,
}

impl Places {
    /// Files with what they hold.
    pub(super) fn new(files: Vec<(PathBuf, Arc<Routing>)>) -> Self {
        Self { files, search: Mutex::new(Search { budget: BUDGET_BYTES, kept: None }) }
    }

    /// The file that holds the object which `path` leads into.
    fn file_of(&self, path: &str) -> Option<usize> {
        let kind = path.match_indices('.').nth(1).map(|(end, _)| path.split_at(end));
        let Some((kind, below)) = kind.filter(|_| self.files.len() > 1) else {
            return (self.files.len() == 1).then_some(0);
        };
        let below = &below[1..];
        let ends = below.char_indices().filter(|(_, letter)| matches!(letter, '.' | '[')).map(|(end, _)| end);
        // A name may hold dots, so each prefix may be it.
        let names = ends.chain([below.len()]).filter_map(|end| below.get(..end));
        let names = names.flat_map(|local| [Name::qualified(local, NAME), Name::from(local)]).collect::<Vec<_>>();
        self.files.iter().position(|(_, routing)| names.iter().any(|name| holds(routing, kind, name)))
    }

    fn parsed(&self, index: usize) -> Option<Arc<Parsed>> {
        let (path, _) = self.files.get(index)?;
        let stamp = Stamp::of(&fs::metadata(path).ok()?);
        let mut search = self.search.lock();
        if let Some((.., parsed)) = search.kept.as_ref().filter(|kept| (kept.0, kept.1) == (index, stamp)) {
            return Some(parsed.clone());
        }
        let written = Raw::read(path).and_then(Raw::evaluate).ok()?;
        search.budget = search.budget.checked_sub(written.text.len())?;
        let mut sources = Sources::default();
        let tree = parse(&written.text, written.format, &written.source, &mut sources).ok()?;
        let parsed = Arc::new(Parsed { tree, sources });
        if written.text.len() <= KEPT_LIMIT_BYTES {
            search.kept = Some((index, stamp, parsed.clone()));
        }
        Some(parsed)
    }
}

impl Locate for Places {
    fn locate(&self, path: &str) -> Option<Place> {
        let parsed = self.parsed(self.file_of(path)?)?;
        let (length, span) = deepest(&parsed.tree, path)?;
        // A section is no answer: what is looked for stands below `http.routers`.
        let reached = path.get(..length)?;
        if path.split('.').count() > 2 && reached.split('.').count() < 3 {
            return None;
        }
        parsed.sources.place(span)
    }
}

/// How far down `path` something is written, and where that is.
fn deepest(node: &Node, path: &str) -> Option<(usize, Span)> {
    if let Some((index, length)) = leading_index(path) {
        let Value::List(items) = &node.value else { return None };
        let item = items.get(index)?;
        return Some(below(item, path, length).unwrap_or((length, item.span)));
    }
    let found = node.entries().iter().filter_map(|(key, value)| {
        let start = path.get(..key.name.len()).filter(|start| same_key(start, &key.name))?;
        let length = start.len();
        match path.as_bytes().get(length) {
            None => Some((length, key.span)),
            Some(b'.' | b'[') => Some(below(value, path, length).unwrap_or((length, key.span))),
            Some(_) => None,
        }
    });
    found.max_by_key(|(length, _)| *length)
}

/// What is found behind the first `length` bytes of `path`.
fn below(node: &Node, path: &str, length: usize) -> Option<(usize, Span)> {
    let rest = path.get(length..)?;
    let (skipped, rest) = rest.strip_prefix('.').map_or((0, rest), |rest| (1, rest));
    let (deeper, span) = deepest(node, rest).filter(|_| !rest.is_empty())?;
    Some((length + skipped + deeper, span))
}

/// `[3]` at the start: its number and length.
fn leading_index(path: &str) -> Option<(usize, usize)> {
    let (digits, _) = path.strip_prefix('[')?.split_once(']')?;
    Some((digits.parse().ok()?, digits.len() + 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, load};

    #[test]
    fn finds_keys_items_and_names_with_dots() {
        let folder = tempfile::tempdir().unwrap();
        let texts = [
            ("a.yaml", "http:\n  routers:\n    web:\n      rule: Path(`/`)\n      service: x\n"),
            (
                "b.yaml",
                "http:\n  services:\n    my.app:\n      loadBalancer:\n        servers:\n        - url: http://a\n        - url: http://b\n",
            ),
        ];
        let files = texts.map(|(name, text)| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            let (routing, _) = load::dynamic(text, Format::Yaml, name, NAME);
            (path, Arc::new(routing))
        });
        let places = Places::new(files.to_vec());
        for (path, expected) in [
            ("http.routers.web.rule", Some("a.yaml:4:7")),
            ("http.routers.web.middlewares", Some("a.yaml:3:5")),
            ("http.services.my.app", Some("b.yaml:3:5")),
            ("http.services.my.app.loadBalancer.servers[1].url", Some("b.yaml:7:11")),
            ("http.services.my.app.loadBalancer.servers[7].url", Some("b.yaml:5:9")),
            ("http.routers.none.rule", None),
        ] {
            let found = places.locate(path).map(|place| place.to_string());
            let found = found.as_deref().and_then(|place| place.rsplit('/').next());
            assert_eq!(found, expected, "{path}");
        }
        fs::write(folder.path().join("a.yaml"), "http: {}").unwrap();
        assert_eq!(places.locate("http.routers.web.rule"), None);
    }
}
