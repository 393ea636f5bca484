//! One file: its text, evaluated if it is a template.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::found::problem_at;
use crate::config::Format;
use crate::config::format::SIZE_LIMIT_BYTES;
use crate::problem::Problem;
use crate::provider::template;

/// A file as it is.
pub(super) struct Raw<'p> {
    path: &'p Path,
    text: String,
    format: Format,
    /// Equal for equal files.
    pub(super) digest: u64,
}

impl<'p> Raw<'p> {
    /// Reads a file.
    pub(super) fn read(path: &'p Path) -> Result<Self, Problem> {
        let Some(format) = Format::of_path(path) else {
            return Err(problem_at(path, "expected a file that ends with .toml, .yaml, .yml or .json"));
        };
        let text = read_text(path).map_err(|error| problem_at(path, format!("cannot be read: {error}")))?;
        let digest = ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(text.as_bytes());
        Ok(Self { path, text, format, digest })
    }

    /// Whether it says nothing, as a file does that is about to be written.
    pub(super) fn is_blank(&self) -> bool {
        self.text.trim_ascii().is_empty()
    }

    /// Evaluates the template, if it is one.
    pub(super) fn evaluate(self) -> Result<Written, Problem> {
        let mut source = self.path.display().to_string();
        let is_template = template::is_template(&self.text);
        let mut text = self.text;
        if is_template {
            let environment = |name: &str| std::env::var(name).ok();
            let output = template::render(&text, &source, &environment)?;
            // Lines of the output are lines of the file as long as no action adds or takes any.
            let lines = |text: &str| text.bytes().filter(|byte| *byte == b'\n').count();
            if lines(&output) != lines(&text) {
                source.push_str(" (after its template was applied)");
            }
            text = output;
        }
        Ok(Written { text, format: self.format, source, is_template })
    }
}

/// What a file says.
pub(super) struct Written {
    /// The text, or what its template makes of it.
    pub(super) text: String,
    pub(super) format: Format,
    /// How people know it.
    pub(super) source: String,
    /// Whether a template made the text.
    pub(super) is_template: bool,
}

fn read_text(path: &Path) -> io::Result<String> {
    // Opening a pipe would wait for its writer.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0).min(SIZE_LIMIT_BYTES));
    File::open(path)?.take(SIZE_LIMIT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > SIZE_LIMIT_BYTES {
        return Err(io::Error::other(format!("it is larger than {SIZE_LIMIT_BYTES} bytes")));
    }
    String::from_utf8(bytes)
        .map_err(|error| io::Error::other(format!("it is not UTF-8 from byte {} on", error.utf8_error().valid_up_to())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &[u8]) -> Result<Written, Problem> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        Raw::read(&path)?.evaluate()
    }

    #[test]
    fn templates_are_applied_and_the_source_says_when_lines_moved() {
        let same = written("a.yaml", b"x: {{ add 1 2 }}\n").unwrap();
        assert_eq!(same.text, "x: 3\n");
        assert!(same.source.ends_with("a.yaml"));
        let moved = written("a.yaml", b"{{ range 3 }}\nx: 1{{ end }}").unwrap();
        assert!(moved.source.ends_with("a.yaml (after its template was applied)"));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let problem = |name, text: &[u8]| written(name, text).err().unwrap().to_string();
        assert!(problem("a.yaml", b"ab\xff").contains("not UTF-8 from byte 2"));
        assert!(problem("a.txt", b"").contains("ends with .toml"));
        assert!(problem("a.yaml", b"x: {{ nothing }}").contains("a.yaml:1:7: error: template"));
    }
}
