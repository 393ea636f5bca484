//! What traffic reads: immutable, built once per configuration.

pub mod path_trie;
pub mod route_table;
