//! `docs/errors.md` lists every code that the gateway answers with by itself.

use std::fmt::Write;

use portcullis::exchange::Fault;

use crate::harness::page;

/// What the source says of each fault, which is not in the program: code and description.
fn described() -> Vec<(&'static str, String)> {
    let source = include_str!("../../src/exchange/fault.rs");
    let mut found = Vec::new();
    let mut said = String::new();
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            said = [said.as_str(), text].join(" ").trim().to_owned();
        } else {
            if let Some((_, rest)) = line.split_once(" = \"").filter(|_| line.ends_with("\";"))
                && let Some((code, _)) = rest.split_once('"')
            {
                found.push((code, said.clone()));
            }
            said.clear();
        }
    }
    found
}

fn table() -> String {
    let described = described();
    let mut out = String::from("| code | status | what happened |\n|---|---:|---|\n");
    for fault in Fault::ALL {
        let (_, said) = described.iter().find(|(code, _)| *code == fault.code()).unwrap();
        let _ = writeln!(out, "| `{}` | {} | {} |", fault.code(), fault.status().as_u16(), said.replace('|', "\\|"));
    }
    out
}

#[test]
fn the_page_on_errors_lists_every_code() {
    page::compare("docs/errors.md", "codes", &table());
}
