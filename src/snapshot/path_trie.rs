//! Radix tries over the bytes of paths, many in one piece of memory: a root for each host.

use std::collections::VecDeque;
use std::ops::Range;

/// A route under a node: its rank, and whether reaching the node already decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(u32);

impl Candidate {
    /// Largest rank there can be.
    pub(super) const MAX_RANK: u32 = u32::MAX >> 1;

    /// The route of `rank` (at most [`Self::MAX_RANK`]).
    pub(super) fn new(rank: u32, decided: bool) -> Self {
        // Decided ones sort first, so that the better of two equal entries survives.
        Self(rank << 1 | u32::from(!decided))
    }

    /// The index of the route in rank order.
    pub(super) fn rank(self) -> u32 {
        self.0 >> 1
    }

    /// Whether the predicate need not be asked.
    pub(super) fn is_decided(self) -> bool {
        self.0 & 1 == 0
    }
}

/// What goes into the tries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// Index of the trie.
    pub(super) root: u32,
    /// The path, whole or as a prefix: where it begins and ends in the text of all paths.
    pub(super) path: (u32, u32),
    /// Whether the path has to end where `path` does.
    pub(super) exact: bool,
    /// The route.
    pub(super) candidate: Candidate,
}

impl Key {
    fn path<'p>(&self, paths: &'p str) -> &'p [u8] {
        paths.as_bytes().get(self.path.0 as usize..self.path.1 as usize).unwrap_or_default()
    }
}

/// A node: where its parts begin. They end where those of the next node begin.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// In `labels`: the bytes between the parent and this node; of all but a root, without the first.
    label: u32,
    /// In `nodes`: the children, ordered by the first byte that leads to them.
    children: u32,
    /// In `candidates`: routes for paths that begin with what leads here, by rank; up to `exacts`.
    prefixes: u32,
    /// In `candidates`: routes for just the path that leads here, by rank.
    exacts: u32,
}

/// The tries. Immutable.
#[derive(Debug, Default)]
pub(super) struct PathTries {
    nodes: Box<[Node]>,
    /// For each node, the byte that leads to it: a choice among children reads one line of memory.
    leads: Box<[u8]>,
    labels: Box<[u8]>,
    candidates: Box<[Candidate]>,
}

impl PathTries {
    /// Builds `roots` tries of keys whose paths stand in `paths`, which has at most 4 GiB.
    pub(super) fn build(roots: u32, paths: &str, mut keys: Vec<Key>) -> Self {
        let whole = |key: &Key| (key.root, key.path(paths), key.exact, key.candidate);
        keys.sort_unstable_by(|one, other| whole(one).cmp(&whole(other)));
        let apart_from_decision = |key: &Key| (key.root, key.path(paths), key.exact, key.candidate.rank());
        keys.dedup_by(|next, kept| apart_from_decision(next) == apart_from_decision(kept));
        // Mostly there is a node or less for each key: what grows step by step leaves holes in memory.
        let nodes = keys.len().max(roots as usize) + 1;
        let tries = Parts {
            nodes: Vec::with_capacity(nodes),
            leads: Vec::with_capacity(nodes),
            labels: Vec::with_capacity(paths.len()),
            candidates: Vec::with_capacity(keys.len()),
        };
        let mut builder = Builder { keys: &keys, paths, tries };
        let mut open = builder.roots(roots);
        let mut known = index(open.len());
        while let Some(part) = open.pop_front() {
            builder.add_node(part, known, &mut open);
            known = index(builder.tries.nodes.len() + open.len());
        }
        builder.finish(known)
    }

    /// Calls `found` with each non-empty run of candidates that `path` reaches from `root`, shortest prefix first.
    pub(super) fn walk(&self, root: u32, path: &[u8], found: &mut impl FnMut(Range<u32>)) {
        let (mut at, mut rest) = (root, path);
        while let Some((node, next)) = self.node(at) {
            if node.label < next.label {
                match rest.strip_prefix(self.label(node, next)) {
                    Some(after) => rest = after,
                    None => return,
                }
            }
            if node.prefixes < node.exacts {
                found(node.prefixes..node.exacts);
            }
            let Some((lead, after)) = rest.split_first() else {
                if node.exacts < next.prefixes {
                    found(node.exacts..next.prefixes);
                }
                return;
            };
            match self.child(node.children..next.children, *lead) {
                Some(child) => (at, rest) = (child, after),
                None => return,
            }
        }
    }

    /// The candidate at `at`, an index out of a run from [`Self::walk`].
    pub(super) fn candidate(&self, at: u32) -> Option<Candidate> {
        self.candidates.get(at as usize).copied()
    }

    /// Memory held, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        size_of_val(&*self.nodes) + self.leads.len() + self.labels.len() + size_of_val(&*self.candidates)
    }

    fn node(&self, at: u32) -> Option<(&Node, &Node)> {
        match self.nodes.get(at as usize..) {
            Some([node, next, ..]) => Some((node, next)),
            _ => None,
        }
    }

    fn label(&self, node: &Node, next: &Node) -> &[u8] {
        self.labels.get(node.label as usize..next.label as usize).unwrap_or_default()
    }

    /// The child that `byte` leads to.
    fn child(&self, children: Range<u32>, byte: u8) -> Option<u32> {
        let leads = self.leads.get(children.start as usize..children.end as usize)?;
        // Digits and letters mostly come without gaps: then the place of a byte follows from the first.
        let guess = usize::from(byte.wrapping_sub(*leads.first()?));
        let found = if leads.get(guess) == Some(&byte) { guess } else { leads.binary_search(&byte).ok()? };
        Some(children.start + index(found))
    }
}

/// The keys of a subtree, and how many bytes of their paths have been used up on the way to its node.
struct Part {
    keys: Range<usize>,
    used: usize,
}

struct Parts {
    nodes: Vec<Node>,
    leads: Vec<u8>,
    labels: Vec<u8>,
    candidates: Vec<Candidate>,
}

struct Builder<'k> {
    keys: &'k [Key],
    paths: &'k str,
    tries: Parts,
}

impl Builder<'_> {
    fn roots(&self, roots: u32) -> VecDeque<Part> {
        let mut from = 0;
        (0..roots)
            .map(|root| {
                let count = self.keys[from..].partition_point(|key| key.root <= root);
                let keys = from..from + count;
                from = keys.end;
                Part { keys, used: 0 }
            })
            .collect()
    }

    /// Adds the node of `part`; its children get the numbers from `first_child` on, in the order they are put in `open`.
    fn add_node(&mut self, part: Part, first_child: u32, open: &mut VecDeque<Part>) {
        let keys = &self.keys[part.keys.clone()];
        let paths = self.paths;
        let path_of = |key: &Key| key.path(paths);
        // They are sorted: what the first and the last share, all do.
        let end = match (keys.first().map(path_of), keys.last().map(path_of)) {
            (Some(first), Some(last)) => part.used + shared_length(&first[part.used..], &last[part.used..]),
            _ => part.used,
        };
        let here = keys.partition_point(|key| path_of(key).len() == end);
        let (ending, longer) = keys.split_at(here);
        let tries = &mut self.tries;
        let label = index(tries.labels.len());
        let path = keys.first().map(|key| &path_of(key)[..end]).unwrap_or_default();
        tries.labels.extend_from_slice(&path[part.used..]);
        tries.leads.push(if part.used == 0 { 0 } else { path.get(part.used - 1).copied().unwrap_or_default() });
        let prefixes = index(tries.candidates.len());
        tries.candidates.extend(ending.iter().map(|key| key.candidate));
        let exacts = prefixes + index(ending.partition_point(|key| !key.exact));
        tries.nodes.push(Node { label, children: first_child, prefixes, exacts });

        let mut from = part.keys.start + here;
        for group in longer.chunk_by(|one, other| path_of(one)[end] == path_of(other)[end]) {
            open.push_back(Part { keys: from..from + group.len(), used: end + 1 });
            from += group.len();
        }
    }

    /// Closes the last node with one that only says where it ends.
    fn finish(self, known: u32) -> PathTries {
        let Parts { mut nodes, leads, labels, candidates } = self.tries;
        let end = index(candidates.len());
        nodes.push(Node { label: index(labels.len()), children: known, prefixes: end, exacts: end });
        PathTries { nodes: nodes.into(), leads: leads.into(), labels: labels.into(), candidates: candidates.into() }
    }
}

/// How many bytes two texts share at their beginning.
fn shared_length(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// A position as it is kept. The caller's limit on the length of all paths holds it below the largest one.
fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(paths: &[(u32, &'static str)]) -> PathTries {
        let roots = paths.iter().map(|(root, _)| root + 1).max().unwrap_or(1);
        let keys = paths.iter().enumerate().map(|(rank, (root, path))| {
            let (exact, path) = path.strip_prefix('=').map_or((false, *path), |path| (true, path));
            (*root, path, exact, Candidate::new(rank as u32, true))
        });
        build(roots, keys)
    }

    fn build<'p>(roots: u32, keys: impl Iterator<Item = (u32, &'p str, bool, Candidate)>) -> PathTries {
        let mut text = String::new();
        let keys = keys.map(|(root, path, exact, candidate)| {
            let start = text.len() as u32;
            text.push_str(path);
            Key { root, path: (start, text.len() as u32), exact, candidate }
        });
        let keys = keys.collect();
        PathTries::build(roots, &text, keys)
    }

    fn reached(tries: &PathTries, root: u32, path: &str) -> Vec<u32> {
        let mut ranks = Vec::new();
        tries.walk(root, path.as_bytes(), &mut |run| {
            ranks.extend(run.map(|at| tries.candidate(at).unwrap().rank()));
        });
        ranks
    }

    #[test]
    fn finds_prefixes_and_exact_paths_byte_by_byte() {
        let tries = tries(&[
            (0, "/foo"),
            (0, "=/foo"),
            (0, "/foobar"),
            (0, "/fob"),
            (0, "/"),
            (0, ""),
            (0, "=/foo/é"),
            (0, "/foo"),
        ]);
        for (path, expected) in [
            ("", &[5][..]),
            ("/", &[5, 4]),
            ("/f", &[5, 4]),
            ("/foo", &[5, 4, 0, 7, 1]),
            ("/foob", &[5, 4, 0, 7]),
            ("/foobarbaz", &[5, 4, 0, 7, 2]),
            ("/fobx", &[5, 4, 3]),
            ("/foo/é", &[5, 4, 0, 7, 6]),
            ("/foo/éx", &[5, 4, 0, 7]),
            ("x", &[5]),
        ] {
            assert_eq!(reached(&tries, 0, path), expected, "{path}");
        }
    }

    #[test]
    fn roots_are_apart_and_may_be_empty() {
        let tries = tries(&[(1, "/a"), (3, "/a"), (3, "/b")]);
        for (root, path, expected) in
            [(0, "/a", &[][..]), (1, "/a", &[0]), (1, "/b", &[]), (2, "/a", &[]), (3, "/bc", &[2]), (9, "/a", &[])]
        {
            assert_eq!(reached(&tries, root, path), expected, "{root} {path}");
        }
    }

    #[test]
    fn wide_and_deep_nodes_are_found() {
        let wide: Vec<String> = (0..=255_u8).map(|byte| format!("/{byte:03}x")).collect();
        let deep: Vec<String> = (1..2000).map(|length| "a".repeat(length)).collect();
        for paths in [wide, deep] {
            let keys = paths.iter().enumerate();
            let tries = build(1, keys.map(|(rank, path)| (0, path.as_str(), true, Candidate::new(rank as u32, false))));
            for (rank, path) in paths.iter().enumerate() {
                assert_eq!(reached(&tries, 0, path), [rank as u32]);
            }
        }
    }

    #[test]
    fn equal_entries_merge_and_the_decided_one_stays() {
        let tries =
            build(1, [false, true, false].map(|decided| (0, "/a", false, Candidate::new(7, decided))).into_iter());
        assert_eq!(&*tries.candidates, [Candidate::new(7, true)]);
    }
}
