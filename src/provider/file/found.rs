//! Which files there are to read.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Source;
use crate::config::Format;
use crate::problem::{Place, Problem};

/// Most folders within each other.
const DEPTH_LIMIT: usize = 16;
/// Most files and folders in all.
const ENTRY_LIMIT: usize = 100_000;

/// What a look at the source has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files that hold configuration, whether or not they can be read.
    pub(super) files: Vec<PathBuf>,
    /// Folders that were looked through.
    pub(super) folders: Vec<PathBuf>,
    /// Folders that could not be looked through: what they hold is not known.
    pub(super) unreadable: Vec<PathBuf>,
    /// What was wrong.
    pub(super) problems: Vec<Problem>,
}

impl Found {
    /// Looks at a source.
    pub(super) fn of(source: &Source) -> Self {
        let mut found = Self::default();
        match source {
            Source::File(path) => found.files.push(path.clone()),
            Source::Folder(path) => {
                let mut walk = Walk { found: &mut found, seen: HashSet::new(), entries: 0 };
                walk.folder(path, 0);
                found.files.sort_unstable();
            }
        }
        found
    }

    /// Whether a file may still be there, although it was not found.
    pub(super) fn is_hidden(&self, file: &Path) -> bool {
        self.unreadable.iter().any(|folder| file.starts_with(folder))
    }
}

/// A problem with a file or folder as a whole.
pub(super) fn problem_at(path: &Path, message: impl Into<String>) -> Problem {
    let source = path.display().to_string().into();
    Problem::at("", message).placed(Some(Place { source, line: 0, column: 0 }))
}

struct Walk<'f> {
    found: &'f mut Found,
    /// Folders by their true paths: links may lead in circles.
    seen: HashSet<PathBuf>,
    entries: usize,
}

impl Walk<'_> {
    fn folder(&mut self, path: &Path, depth: usize) {
        if let Err(error) = self.try_folder(path, depth) {
            self.found.unreadable.push(path.to_owned());
            self.found.problems.push(problem_at(path, format!("cannot be read: {error}")));
        }
    }

    fn try_folder(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH_LIMIT {
            return Err(io::Error::other(format!("more than {DEPTH_LIMIT} folders within each other")));
        }
        if !self.seen.insert(fs::canonicalize(path)?) {
            return Ok(());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            self.entries += 1;
            if self.entries > ENTRY_LIMIT {
                return Err(io::Error::other(format!("there are more than {ENTRY_LIMIT} files")));
            }
            names.push(entry?.file_name());
        }
        names.sort_unstable();
        self.found.folders.push(path.to_owned());
        for name in names.iter().filter(|name| !is_hidden(name)) {
            let path = path.join(name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.folder(&path, depth + 1),
                _ if Format::of_path(&path).is_some() => self.found.files.push(path),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Editors write beside the file under such names, and Kubernetes keeps versions there.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first().is_none_or(|first| matches!(first, b'.' | b'#'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn finds_files_in_the_order_of_their_names_and_no_leftovers() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("b/deep")).unwrap();
        fs::create_dir(root.join("..2024")).unwrap();
        for name in [
            "c.toml",
            "a.yaml",
            "b/x.yml",
            "b/deep/y.json",
            "a.yaml~",
            "#a.yaml#",
            ".a.yaml",
            ".a.yaml.swp",
            "4913",
            "a.yaml.bak",
            "..2024/a.yaml",
            "notes.txt",
        ] {
            fs::write(root.join(name), "").unwrap();
        }
        symlink(root.join("c.toml"), root.join("link.toml")).unwrap();
        symlink(root, root.join("circle")).unwrap();
        symlink(root.join("missing"), root.join("broken.yaml")).unwrap();
        let found = Found::of(&Source::Folder(root.to_owned()));
        let names = found.files.iter().map(|path| path.strip_prefix(root).unwrap().display().to_string());
        let expected = ["a.yaml", "b/deep/y.json", "b/x.yml", "broken.yaml", "c.toml", "link.toml"];
        assert_eq!(names.collect::<Vec<_>>(), expected);
        assert!(found.problems.is_empty());
    }

    #[test]
    fn a_missing_folder_is_said() {
        let found = Found::of(&Source::Folder("/nowhere/at/all".into()));
        assert_eq!(found.problems.len(), 1);
        assert!(found.is_hidden(Path::new("/nowhere/at/all/a.yaml")));
    }
}
