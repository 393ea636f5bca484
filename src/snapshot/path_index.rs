//! An index over paths, one tree for each host, all trees in one table: from a place in a path, one look-up goes as far as the next
//! slash.
//!
//! A tree of bytes would be simpler, but it reads several lines of memory for each letter that tells routes apart, and with a hundred
//! thousand routes none of them is in the cache. Here a node is half a line and holds what most of them need: the piece of path that
//! leads to it, what follows that piece without an alternative, and its only candidate.

use std::slice;

use hashbrown::HashTable;

mod build;

pub(super) use build::Key;

/// Longest piece of a path that is looked up at once: what fits into a register. A longer segment takes another step, but rarely: most
/// are told apart by less, and what follows then is part of the node.
const PIECE_BYTES: usize = 8;
/// A node whose candidates are too many to be counted in it.
const LARGE: u16 = u16::MAX;
/// No node.
const NONE: u32 = u32::MAX;
/// Where a path is split.
const SLASH: u8 = b'/';

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

/// A place in the paths of a tree: after a piece, and after the label that follows it in all paths with this piece.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// The first bytes of piece and label together.
    head: u64,
    /// The node before the piece.
    parent: u32,
    /// In `labels`: what of piece and label is not in `head`.
    rest: u32,
    /// The candidate, if there is one; of several, where they begin in `candidates`: first those for paths that go on in any way,
    /// then those for paths that end here, each by rank; of [`LARGE`] numbers, where in `large` to find that.
    at: Candidate,
    /// The nearest sibling whose piece this one begins with and that takes paths which go on in any way. Left out if it cannot win
    /// against a candidate of this node.
    shorter: u32,
    prefixes: u16,
    exacts: u16,
    piece_length: u8,
    label_length: u8,
    /// Lengths of the pieces that lead on from here: one bit for each.
    lengths: u8,
    /// Those that may be only the beginning of a piece.
    open_lengths: u8,
}

impl Node {
    /// How many bytes of the path it has.
    fn length(&self) -> usize {
        usize::from(self.piece_length) + usize::from(self.label_length)
    }

    fn is_behind(&self, parent: u32, piece: Piece) -> bool {
        self.parent == parent
            && u32::from(self.piece_length) == piece.length
            && self.head & low_bytes(piece.length) == piece.bytes
    }
}

/// The next bytes of a path up to a slash that is not the first of them, at most [`PIECE_BYTES`]; the first in the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    bytes: u64,
    length: u32,
}

impl Piece {
    /// The piece at the beginning of a text with at least one byte, whose first bytes are `head`.
    fn first(head: u64, text_length: usize) -> Self {
        const ONES: u64 = u64::from_le_bytes([1; 8]);
        // The first byte begins the piece, whatever it is. Were it a zero, a borrow would make one of the byte after it, if that
        // differs from a slash in its lowest bit only: a dot.
        let zero_at_slash = (head ^ (ONES * SLASH as u64)) | 0xff;
        // The lowest bit that is set marks the first zero byte.
        let slashes = zero_at_slash.wrapping_sub(ONES) & !zero_at_slash & (ONES << 7);
        let length = (slashes.trailing_zeros() / 8).min(text_length.min(PIECE_BYTES) as u32);
        Self { bytes: head, length }.shortened(length)
    }

    fn shortened(self, length: u32) -> Self {
        Self { bytes: self.bytes & low_bytes(length), length }
    }

    /// What finds the piece behind a node. Nobody but the configuration chooses what is in the table, so that chance has no part in it.
    fn hash(self, parent: u32) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        const OTHER: u64 = 0xd6e8_feb8_6659_fd93;
        let place = u64::from(parent) << 4 | u64::from(self.length);
        let product = u128::from(self.bytes ^ OTHER) * u128::from(place.wrapping_mul(ODD) ^ OTHER.rotate_left(32));
        (product >> 64) as u64 ^ product as u64
    }
}

/// The index. Immutable.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    /// The roots first.
    nodes: Box<[Node]>,
    /// All nodes but the roots, by parent and piece.
    table: HashTable<u32>,
    labels: Box<[u8]>,
    candidates: Box<[Candidate]>,
    large: Box<[Large]>,
}

/// In `candidates`: where those for paths that go on begin, where those for paths that end, and where both are over.
#[derive(Clone, Copy, Debug)]
struct Large {
    prefixes: u32,
    exacts: u32,
    end: u32,
}

impl PathIndex {
    /// Calls `found` with each run of candidates that `path` reaches from `root`; in a run, they are in rank order. It may be empty. Some
    /// are left out that are weaker than others which match for sure.
    pub(super) fn walk<'t>(&'t self, root: u32, path: &[u8], found: &mut impl FnMut(&'t [Candidate])) {
        let (mut at, mut rest, mut head) = (root, path, head_of(path));
        while let Some(node) = self.nodes.get(at as usize) {
            if !self.begins_with(rest, head, node) {
                return;
            }
            rest = rest.get(node.length()..).unwrap_or_default();
            if node.prefixes != 0 {
                found(self.runs(node).0);
            }
            if rest.is_empty() {
                return found(self.runs(node).1);
            }
            if node.lengths == 0 {
                return;
            }
            head = head_of(rest);
            let piece = Piece::first(head, rest.len());
            match self.child(at, node.lengths, piece) {
                Some(child) => {
                    self.walk_shorter(child, found);
                    at = child;
                }
                None => return self.walk_open(at, node.open_lengths, piece, found),
            }
        }
    }

    /// Memory held, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        size_of_val(&*self.nodes)
            + self.table.allocation_size()
            + self.labels.len()
            + size_of_val(&*self.candidates)
            + size_of_val(&*self.large)
    }

    /// Reports what takes a path with the piece `whole` though it names only the beginning of it.
    fn walk_open<'t>(&'t self, at: u32, lengths: u8, whole: Piece, found: &mut impl FnMut(&'t [Candidate])) {
        for length in (1..whole.length).rev() {
            let Some(number) = self.child(at, lengths, whole.shortened(length)) else { continue };
            if let Some(node) = self.nodes.get(number as usize).filter(|node| node.label_length == 0) {
                found(self.runs(node).0);
            }
            return self.walk_shorter(number, found);
        }
    }

    /// Reports the siblings of `node` that take all which begins with them, and so what leads to `node`.
    fn walk_shorter<'t>(&'t self, node: u32, found: &mut impl FnMut(&'t [Candidate])) {
        let shorter_than = |at: u32| self.nodes.get(at as usize).and_then(|node| self.nodes.get(node.shorter as usize));
        let mut next = shorter_than(node);
        while let Some(node) = next {
            found(self.runs(node).0);
            next = self.nodes.get(node.shorter as usize);
        }
    }

    /// The node that `piece` leads to from `parent`, where pieces of the given lengths go on.
    fn child(&self, parent: u32, lengths: u8, piece: Piece) -> Option<u32> {
        if lengths & length_bit(piece.length) == 0 {
            return None;
        }
        let is_it = |at: &u32| self.nodes.get(*at as usize).is_some_and(|node| node.is_behind(parent, piece));
        self.table.find(piece.hash(parent), is_it).copied()
    }

    /// Whether `text`, whose first bytes are `head`, begins with the piece and the label of `node`.
    fn begins_with(&self, text: &[u8], head: u64, node: &Node) -> bool {
        let length = node.length();
        if head & low_bytes(length as u32) != node.head || text.len() < length {
            return false;
        }
        let rest = length.saturating_sub(PIECE_BYTES);
        let from = node.rest as usize;
        rest == 0 || self.labels.get(from..from + rest) == text.get(PIECE_BYTES..length)
    }

    /// The candidates for paths that go on, and those for paths that end at `node`.
    fn runs<'t>(&'t self, node: &'t Node) -> (&'t [Candidate], &'t [Candidate]) {
        match (node.prefixes, node.exacts) {
            (1, 0) => (slice::from_ref(&node.at), &[]),
            (0, 1) => (&[], slice::from_ref(&node.at)),
            _ => self.long_runs(node),
        }
    }

    #[cold]
    fn long_runs(&self, node: &Node) -> (&[Candidate], &[Candidate]) {
        let from = node.at.0;
        let (prefixes, exacts, end) = match (node.prefixes, node.exacts) {
            (LARGE, LARGE) => match self.large.get(from as usize) {
                Some(large) => (large.prefixes, large.exacts, large.end),
                None => return (&[], &[]),
            },
            (prefixes, exacts) => {
                let split = from.saturating_add(prefixes.into());
                (from, split, split.saturating_add(exacts.into()))
            }
        };
        let run = |from: u32, to: u32| self.candidates.get(from as usize..to as usize).unwrap_or_default();
        (run(prefixes, exacts), run(exacts, end))
    }
}

/// The first bytes of a text, as many as there are; the first in the lowest.
fn head_of(text: &[u8]) -> u64 {
    if let Some(head) = text.first_chunk::<8>() {
        return u64::from_le_bytes(*head);
    }
    // Two reads that overlap instead of a copy of so many bytes.
    if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        let last = u64::from(u32::from_le_bytes(*last)) << (8 * (text.len() - 4));
        return u64::from(u32::from_le_bytes(*first)) | last;
    }
    match *text {
        [] => 0,
        [one] => one.into(),
        [one, two] => u64::from(u16::from_le_bytes([one, two])),
        [one, two, three, ..] => u64::from(u32::from_le_bytes([one, two, three, 0])),
    }
}

/// A mask for the first `length` bytes of a head; for all of them if there are not so many.
fn low_bytes(length: u32) -> u64 {
    !u64::MAX.checked_shl(8 * length).unwrap_or(0)
}

/// The bit of a length from 1 to 8.
fn length_bit(length: u32) -> u8 {
    1_u8.checked_shl(length.wrapping_sub(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
