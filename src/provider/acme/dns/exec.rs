//! `exec`: a program writes the records.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::{Environment, Record};

/// How long the program may take.
const WITHIN: Duration = Duration::from_secs(300);
/// How much of what it says is told, in bytes.
const TOLD_BYTES: u64 = 500;

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
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let (status, said) = tokio::time::timeout(WITHIN, wait_for(&mut command))
            .await
            .map_err(|_| format!("{} takes longer than {WITHIN:?}", self.path))?
            .map_err(|error| format!("{} cannot be started: {error}", self.path))?;
        if status.success() {
            return Ok(());
        }
        Err(format!("{} {action}: {status}: {}", self.path, String::from_utf8_lossy(&said).trim()))
    }
}

/// Runs a program to its end: how it ended, and the beginning of what it had to complain of.
async fn wait_for(command: &mut Command) -> io::Result<(ExitStatus, Vec<u8>)> {
    let mut child = command.spawn()?;
    let mut said = Vec::new();
    if let Some(mut complaints) = child.stderr.take() {
        (&mut complaints).take(TOLD_BYTES).read_to_end(&mut said).await?;
        // Nobody keeps the rest, but it must not wait for somebody to take it.
        tokio::io::copy(&mut complaints, &mut tokio::io::sink()).await?;
    }
    Ok((child.wait().await?, said))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::provider::acme::proof::Proof;

    #[tokio::test]
    async fn of_what_a_program_says_only_the_beginning_is_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 3"]).stderr(Stdio::piped());
        let (status, said) =
            tokio::time::timeout(Duration::from_secs(20), wait_for(&mut command)).await.unwrap().unwrap();
        assert_eq!((status.code(), said), (Some(3), vec![b'x'; TOLD_BYTES as usize]));
    }

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
