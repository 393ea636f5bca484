//! How the index is made: keys in order, and from the roots down one node after the other.

use std::collections::VecDeque;
use std::ops::Range;

use hashbrown::HashTable;

use super::{Candidate, LARGE, Large, NONE, Node, PIECE_BYTES, PathIndex, Piece, SLASH, head_of, length_bit};

/// What goes into the index.
#[derive(Clone, Copy, Debug)]
pub(in crate::snapshot) struct Key {
    /// Index of the tree.
    pub(in crate::snapshot) root: u32,
    /// The path, whole or as a prefix: where it begins and ends in the text of all paths.
    pub(in crate::snapshot) path: (u32, u32),
    /// Whether the path has to end where `path` does.
    pub(in crate::snapshot) exact: bool,
    /// The route.
    pub(in crate::snapshot) candidate: Candidate,
}

impl Key {
    fn path<'p>(&self, paths: &'p [u8]) -> &'p [u8] {
        paths.get(self.path.0 as usize..self.path.1 as usize).unwrap_or_default()
    }
}

impl PathIndex {
    /// Builds `roots` trees of keys whose paths stand in `paths`, which has at most 4 GiB.
    pub(in crate::snapshot) fn build(roots: u32, paths: &str, mut keys: Vec<Key>) -> Self {
        // Paths with the same piece have to stand together: a slash must be less than all else.
        let paths: Vec<u8> = paths.bytes().map(turned).collect();
        let whole = |key: &Key| (key.root, key.path(&paths), key.exact, key.candidate);
        keys.sort_unstable_by(|one, other| whole(one).cmp(&whole(other)));
        let apart_from_decision = |key: &Key| (key.root, key.path(&paths), key.exact, key.candidate.rank());
        keys.dedup_by(|next, kept| apart_from_decision(next) == apart_from_decision(kept));
        let mut builder = Builder::new(&keys, &paths);
        let mut open = builder.roots(roots);
        let mut known = position(open.len());
        while let Some(part) = open.pop_front() {
            builder.add_node(part, known, &mut open);
            known = position(builder.nodes.len() + open.len());
        }
        builder.finish(roots)
    }
}

/// The keys of a subtree, what leads to its node, and how many bytes of their paths have been used up before that.
struct Part {
    keys: Range<usize>,
    parent: u32,
    shorter: u32,
    used: usize,
    piece_length: usize,
}

/// A piece that may be only the beginning of another, while its siblings are gone through.
struct Open<'k> {
    piece: &'k [u8],
    node: u32,
    /// The strongest that it and those before it have.
    strongest: u32,
}

struct Builder<'k> {
    keys: &'k [Key],
    /// With slashes turned.
    paths: &'k [u8],
    nodes: Vec<Node>,
    labels: Vec<u8>,
    candidates: Vec<Candidate>,
    large: Vec<Large>,
}

impl<'k> Builder<'k> {
    fn new(keys: &'k [Key], paths: &'k [u8]) -> Self {
        let (nodes, labels, candidates, large) = Default::default();
        Self { keys, paths, nodes, labels, candidates, large }
    }

    fn roots(&mut self, roots: u32) -> VecDeque<Part> {
        // Mostly there is a node or less for each key: what grows step by step leaves holes in memory.
        self.nodes.reserve_exact(self.keys.len().max(roots as usize) + 1);
        let mut from = 0;
        (0..roots)
            .map(|root| {
                let count = self.keys[from..].iter().take_while(|key| key.root <= root).count();
                let keys = from..from + count;
                from = keys.end;
                Part { keys, parent: NONE, shorter: NONE, used: 0, piece_length: 0 }
            })
            .collect()
    }

    /// Adds the node of `part`; its children get the numbers from `first_child` on, in the order they are put in `open`.
    fn add_node(&mut self, part: Part, first_child: u32, open: &mut VecDeque<Part>) {
        let keys = &self.keys[part.keys.clone()];
        let after_piece = part.used + part.piece_length;
        // They are sorted: what the first and the last share, all do.
        let end = match (keys.first().map(|key| self.path(key)), keys.last().map(|key| self.path(key))) {
            (Some(first), Some(last)) => {
                let shared = shared_length(&first[after_piece..], &last[after_piece..]);
                after_piece + shared.min(u8::MAX.into())
            }
            _ => after_piece,
        };
        let here = keys.partition_point(|key| self.path(key).len() == end);
        let (ending, longer) = keys.split_at(here);
        let (at, prefixes, exacts) = self.add_candidates(ending);
        let text = keys.first().map(|key| &self.path(key)[part.used..end]).unwrap_or_default();
        let text: Vec<u8> = text.iter().map(|byte| turned(*byte)).collect();
        let rest = position(self.labels.len());
        self.labels.extend_from_slice(text.get(PIECE_BYTES..).unwrap_or_default());
        let number = position(self.nodes.len());
        let (lengths, open_lengths) =
            self.add_children(number, longer, (part.keys.start + here, end), first_child, open);
        self.nodes.push(Node {
            head: head_of(&text),
            parent: part.parent,
            rest,
            at,
            shorter: part.shorter,
            prefixes,
            exacts,
            piece_length: part.piece_length as u8,
            label_length: (end - after_piece) as u8,
            lengths,
            open_lengths,
        });
    }

    /// Adds the candidates of keys with the same path, and gives what a node says of them.
    fn add_candidates(&mut self, keys: &[Key]) -> (Candidate, u16, u16) {
        if let [only] = keys {
            return (only.candidate, (!only.exact).into(), only.exact.into());
        }
        let prefixes = keys.partition_point(|key| !key.exact);
        let start = position(self.candidates.len());
        self.candidates.extend(keys.iter().map(|key| key.candidate));
        match (u16::try_from(prefixes), u16::try_from(keys.len() - prefixes)) {
            (Ok(prefixes), Ok(exacts)) if prefixes.max(exacts) < LARGE => (Candidate(start), prefixes, exacts),
            _ => {
                let number = position(self.large.len());
                let exacts = start.saturating_add(position(prefixes));
                self.large.push(Large { prefixes: start, exacts, end: position(self.candidates.len()) });
                (Candidate(number), LARGE, LARGE)
            }
        }
    }

    /// Puts what goes on from a node into `open`; gives the lengths of the pieces, and of those that may be only a beginning.
    fn add_children(
        &self,
        parent: u32,
        keys: &'k [Key],
        (mut from, used): (usize, usize),
        first_child: u32,
        open: &mut VecDeque<Part>,
    ) -> (u8, u8) {
        let (mut lengths, mut open_lengths) = (0, 0);
        let mut beginnings: Vec<Open<'k>> = Vec::new();
        let piece_of = |key: &Key| first_piece(&self.path(key)[used..]);
        for (node, group) in (first_child..).zip(keys.chunk_by(|one, other| piece_of(one) == piece_of(other))) {
            let Some(piece) = group.first().map(piece_of) else { continue };
            let ends_open = |key: &&Key| !key.exact && self.path(key).len() == used + piece.len();
            let taking = &group[..group.iter().take_while(ends_open).count()];
            while beginnings.last().is_some_and(|before| !piece.starts_with(before.piece)) {
                beginnings.pop();
            }
            let decided = taking.iter().find(|key| key.candidate.is_decided()).map(|key| key.candidate.rank());
            let shorter = beginnings.last().filter(|before| decided.is_none_or(|rank| before.strongest < rank));
            let strongest_before = shorter.map_or(u32::MAX, |before| before.strongest);
            let shorter = shorter.map_or(NONE, |before| before.node);
            lengths |= length_bit(piece.len() as u32);
            if let Some(first) = taking.first() {
                open_lengths |= length_bit(piece.len() as u32);
                beginnings.push(Open { piece, node, strongest: first.candidate.rank().min(strongest_before) });
            }
            open.push_back(Part { keys: from..from + group.len(), parent, shorter, used, piece_length: piece.len() });
            from += group.len();
        }
        (lengths, open_lengths)
    }

    fn path(&self, key: &Key) -> &'k [u8] {
        key.path(self.paths)
    }

    fn finish(self, roots: u32) -> PathIndex {
        let hash = |node: &Node| {
            let length = node.piece_length.into();
            Piece { bytes: node.head, length }.shortened(length).hash(node.parent)
        };
        let nodes = self.nodes.into_boxed_slice();
        let numbers = roots..position(nodes.len());
        let mut table = HashTable::with_capacity(numbers.len());
        for number in numbers {
            let hash_of = |number: &u32| nodes.get(*number as usize).map_or(0, hash);
            table.insert_unique(hash_of(&number), number, hash_of);
        }
        PathIndex {
            nodes,
            table,
            labels: self.labels.into(),
            candidates: self.candidates.into(),
            large: self.large.into(),
        }
    }
}

/// The first piece of a text with turned slashes; as [`Piece::first`].
fn first_piece(text: &[u8]) -> &[u8] {
    let text = text.get(..PIECE_BYTES).unwrap_or(text);
    let end = text.iter().skip(1).position(|byte| *byte == turned(SLASH));
    end.and_then(|end| text.get(..=end)).unwrap_or(text)
}

/// A byte so that a slash is less than all others, and back again.
fn turned(byte: u8) -> u8 {
    match byte {
        SLASH => 0,
        0 => SLASH,
        other => other,
    }
}

/// How many bytes two texts share at their beginning.
fn shared_length(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// A position as it is kept. The caller's limit on the length of all paths holds it below the largest one.
fn position(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
