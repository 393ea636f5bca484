//! `exec`: a program writes the records.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Environment, Record};

/// How long the program may take.
const WITHIN: Duration = Duration::from_secs(300);
/// How much of what it says is told, in bytes.
const TOLD_BYTES: usize = 500;

pub(super) struct Exec {
    path: String,
    /// Gives it name, token and authorisation instead of the record.
    is_raw: bool,
}

impl Exec {
    pub(super) fn new(environment: &Environment) -> Result<Self, String> {
        let is_raw = environment.find("EXEC_MODE")?.is_some_and(|mode| mode == "RAW");
        Ok(Self { path: environment.need(&["EXEC_PATH"])?, is_raw })
    }

    /// Calls it: `present NAME TEXT`, or `present -- DOMAIN TOKEN AUTHORISATION`.
    pub(super) async fn run(&self, action: &str, record: &Record<'_>) -> Result<(), String> {
        let mut command = Command::new(&self.path);
        command.arg(action);
        if self.is_raw {
            let proof = record.proof;
            command.args(["--", &proof.name, &proof.token, &proof.authorization]);
        } else {
            command.args([&record.name, &record.text]);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(WITHIN, command.output())
            .await
            .map_err(|_| format!("{} takes longer than {WITHIN:?}", self.path))?
            .map_err(|error| format!("{} cannot be started: {error}", self.path))?;
        if output.status.success() {
            return Ok(());
        }
        let said = output.stderr.get(..TOLD_BYTES).unwrap_or(&output.stderr);
        Err(format!("{} {action}: {}: {}", self.path, output.status, String::from_utf8_lossy(said).trim()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::provider::acme::proof::Proof;

    #[tokio::test]
    async fn the_program_gets_what_lego_gives_it() {
        let folder = tempfile::tempdir().unwrap();
        let (program, seen) = (folder.path().join("p"), folder.path().join("seen"));
        std::fs::write(&program, format!("#!/bin/sh\necho \"$@\" >>{}\n[ \"$1\" = present ]\n", seen.display()))
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let proof = Proof { name: "a.test".into(), token: "t".into(), authorization: "t.x".into() };
        let record = Record { name: "_acme-challenge.a.test.".to_owned(), text: "v".to_owned(), proof: &proof };
        for mode in ["", "RAW"] {
            let variables = [("EXEC_PATH", program.to_str().unwrap()), ("EXEC_MODE", mode)];
            let exec = Exec::new(&Environment::of(&variables)).unwrap();
            // A file that was just written may be open in a child of another test.
            while let Err(error) = exec.run("present", &record).await {
                assert!(error.contains("Text file busy"), "{error}");
            }
            assert!(exec.run("cleanup", &record).await.unwrap_err().contains("exit status: 1"));
        }
        let seen = std::fs::read_to_string(seen).unwrap();
        let lines: Vec<_> = seen.lines().collect();
        assert_eq!(
            lines,
            [
                "present _acme-challenge.a.test. v",
                "cleanup _acme-challenge.a.test. v",
                "present -- a.test t t.x",
                "cleanup -- a.test t t.x"
            ]
        );
        assert!(Exec::new(&Environment::of(&[])).is_err());
    }
}
