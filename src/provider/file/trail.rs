//! The links that a path leads through: whoever moves one of them changes what stands at the path.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Most links on the way, as in Linux.
const LINK_LIMIT: usize = 40;

/// Every link on the way to `path` and what stands at its end, each within its true folder. If something is missing on
/// the way, that is the last entry.
pub(super) fn trail(path: &Path) -> Vec<PathBuf> {
    let Ok(path) = std::path::absolute(path) else { return Vec::new() };
    let mut pending = steps(&path).collect::<VecDeque<_>>();
    let mut here = PathBuf::from("/");
    let mut entries = Vec::new();
    while let Some(step) = pending.pop_front() {
        if step == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&step);
        let Ok(metadata) = fs::symlink_metadata(&next) else {
            entries.push(next);
            return entries;
        };
        if !metadata.is_symlink() {
            here = next;
            continue;
        }
        let target = fs::read_link(&next);
        entries.push(next);
        match target {
            Ok(target) if entries.len() <= LINK_LIMIT => {
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                let rest = std::mem::take(&mut pending);
                pending = steps(&target).chain(rest).collect();
            }
            _ => return entries,
        }
    }
    entries.push(here);
    entries
}

fn steps(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(step) => Some(step.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn lists_every_link_and_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(root.join("..v1")).unwrap();
        fs::write(root.join("..v1/app.yaml"), "").unwrap();
        symlink("..v1", root.join("..data")).unwrap();
        symlink("..data/app.yaml", root.join("app.yaml")).unwrap();
        let check = |path: &str, expected: &[&str]| {
            let expected = expected.iter().map(|entry| root.join(entry)).collect::<Vec<_>>();
            assert_eq!(trail(&root.join(path)), expected, "{path}");
        };
        check("app.yaml", &["app.yaml", "..data", "..v1/app.yaml"]);
        check("..v1/app.yaml", &["..v1/app.yaml"]);
        check("..v1/../..data/none.yaml", &["..data", "..v1/none.yaml"]);
        check("no/such.yaml", &["no"]);
        symlink("circle", root.join("circle")).unwrap();
        assert!(trail(&root.join("circle")).len() <= LINK_LIMIT + 1);
    }
}
