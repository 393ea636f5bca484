//! The program's verbs that end by themselves.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// How a verb ended, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A call of the program that has not begun. Of the environment it sees what the test gives.
pub(crate) struct Tool(Command);

impl Tool {
    /// `portcullis` with these arguments, parted by blanks.
    pub(crate) fn new(arguments: &str) -> Self {
        Self::with(arguments.split_whitespace())
    }

    /// `portcullis` with these arguments.
    pub(crate) fn with<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(arguments).env_clear().stdin(Stdio::null());
        Self(command)
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// With a variable of this name that is no text.
    pub(crate) fn env_without_text(mut self, name: &str) -> Self {
        self.0.env(name, std::ffi::OsStr::from_bytes(b"\xff"));
        self
    }

    /// Runs in this folder.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.0.current_dir(folder);
        self
    }

    pub(crate) fn run(mut self) -> Told {
        let output = self.0.output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Told { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs without blocking the test's other tasks.
    pub(crate) async fn run_beside(self) -> Told {
        tokio::task::spawn_blocking(|| self.run()).await.expect("it runs")
    }
}
