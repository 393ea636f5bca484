//! `docs/traefik-compatibility.md` lists every key as the tables have it that the program reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::harness::page;

const TABLES: [(&str, &str); 2] = [
    ("Static keys", include_str!("../../src/config/keys/static.tsv")),
    ("Dynamic keys", include_str!("../../src/config/keys/dynamic.tsv")),
];

/// What the page calls the state of a key, and what that means.
const STATES: [(&str, &str); 7] = [
    ("same", "does what it does in Traefik"),
    ("differs", "acts; the note says what is different"),
    ("ours", "Traefik does not have it"),
    ("refused", "cannot act; the object that it stands in is disabled, with an error"),
    ("ignored", "cannot act and is left out, with a warning; the object that it stands in works without it"),
    ("nothing to do", "accepted; there is nothing that it would have to do"),
    ("gone", "Traefik 3 does not have it any more; an error says what to write instead"),
];

struct Row {
    path: &'static str,
    kind: &'static str,
    default: &'static str,
    state: &'static str,
    note: &'static str,
    /// Whether its parent is out of force already, so that it needs no line of its own.
    below: bool,
}

fn rows(table: &'static str) -> Vec<Row> {
    let mut statuses: BTreeMap<&str, &str> = BTreeMap::new();
    let mut rows = Vec::new();
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split('\t');
        let mut next = || columns.next().unwrap_or_default();
        let (path, kind, default, written, note) = (next(), next(), next(), next(), next());
        let mut parents = std::iter::successors(Some(path), |path| path.rsplit_once('.').map(|(parent, _)| parent));
        let inherited = parents.by_ref().skip(1).find_map(|parent| {
            let list = format!("{parent}[n]");
            statuses.get(parent).or_else(|| statuses.get(list.as_str())).copied()
        });
        let status = if written.is_empty() { inherited.unwrap_or("acts") } else { written };
        statuses.insert(path, status);
        let state = match (status, note) {
            ("acts", "") => "same",
            ("acts", note) if note.starts_with("ours: ") => "ours",
            ("acts", _) => "differs",
            ("inert", _) => "nothing to do",
            ("removed", _) => "gone",
            (other, _) => other,
        };
        let below = matches!(status, "refused" | "ignored") && inherited == Some(status) && note.is_empty();
        rows.push(Row { path, kind, default, state, note: note.strip_prefix("ours: ").unwrap_or(note), below });
    }
    rows
}

/// The heading that a key stands under: its root, of `http` one level more.
fn group(path: &str) -> String {
    let mut parts = path.split('.').map(|part| part.trim_end_matches("[n]"));
    let root = parts.next().unwrap_or_default();
    match parts.next() {
        Some(second) if root == "http" => format!("{root}.{second}"),
        _ => root.to_owned(),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn counts(rows: &[Row]) -> String {
    STATES.map(|(state, _)| rows.iter().filter(|row| row.state == state).count().to_string()).join(" | ")
}

fn page() -> String {
    let tables = TABLES.map(|(title, table)| (title, rows(table)));
    let mut out = String::from("| | what it means |\n|---|---|\n");
    for (state, meaning) in STATES {
        let _ = writeln!(out, "| **{state}** | {meaning} |");
    }
    let _ = writeln!(out, "\n| keys | {} |\n|---|{}", STATES.map(|(state, _)| state).join(" | "), "---:|".repeat(7));
    for (title, rows) in &tables {
        let _ = writeln!(out, "| {} | {} |", title.to_lowercase(), counts(rows));
    }
    out.push_str("\nKeys below one that is refused or ignored share its state and have no line of their own.\n");
    for (title, rows) in &tables {
        let _ = writeln!(out, "\n## {title}");
        let mut done = BTreeSet::new();
        for row in rows {
            let group = group(row.path);
            if !done.insert(group.clone()) {
                continue;
            }
            let _ = writeln!(out, "\n### `{group}`\n\n| key | type | default | state | note |\n|---|---|---|---|---|");
            for row in rows.iter().filter(|row| !row.below && self::group(row.path) == group) {
                let default = if row.default.is_empty() { String::new() } else { format!("`{}`", cell(row.default)) };
                let _ =
                    writeln!(out, "| `{}` | {} | {default} | {} | {} |", row.path, row.kind, row.state, cell(row.note));
            }
        }
    }
    out
}

#[test]
fn the_page_on_traefik_lists_every_key_as_it_is() {
    page::compare("docs/traefik-compatibility.md", "keys", &page());
}

#[test]
fn states_are_inherited_and_told_apart() {
    let table = "a\tsection\t\tacts\na.b\tint\t5\n\
                 a.c\tswitch\t\trefused\tno\na.c.d\tint\na.e\tint\t\tacts\tours: new\na.f\tint\t\t\tbut\na.g[n]\tsection\t\tignored\tx\na.g[n].h\tint\n";
    let found: Vec<_> = rows(table).iter().map(|row| (row.path, row.state, row.below)).collect();
    let expected = [
        ("a", "same", false),
        ("a.b", "same", false),
        ("a.c", "refused", false),
        ("a.c.d", "refused", true),
        ("a.e", "ours", false),
        ("a.f", "differs", false),
        ("a.g[n]", "ignored", false),
        ("a.g[n].h", "ignored", true),
    ];
    assert_eq!(found, expected);
}
