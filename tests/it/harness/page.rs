//! Pages of `docs/` of which a part is made from the code, so that it cannot rot.

use std::fs;
use std::path::Path;

/// Compares what stands in `page` between the marks of `block` with `expected`; with `UPDATE=1`, writes it there.
pub(crate) fn compare(page: &str, block: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {block}: made by a test -->\n"), format!("<!-- end of {block} -->"));
    let from = text.find(&begin).unwrap_or_else(|| panic!("{page} has no mark {begin}")) + begin.len();
    let to = from + text[from..].find(&end).unwrap_or_else(|| panic!("{page} has no mark {end}"));
    if text[from..to] == *expected {
        return;
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, [&text[..from], expected, &text[to..]].concat()).unwrap();
        return;
    }
    let found: Vec<&str> = text[from..to].lines().collect();
    let wanted: Vec<&str> = expected.lines().collect();
    let at = found.iter().zip(&wanted).position(|(a, b)| a != b).unwrap_or(found.len().min(wanted.len()));
    panic!(
        "{page} is not what the code says; UPDATE=1 cargo test rewrites it.\n found: {:?}\nwanted: {:?}",
        found.get(at),
        wanted.get(at)
    );
}
