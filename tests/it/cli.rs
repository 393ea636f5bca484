//! The verbs of the command line: what they print, and with which code they end.
//!
//! Most cases are files: `golden/x.yaml` says in its first lines which commands are run on it (`# $ check {}`), `golden/x.yaml.txt` what
//! they print. `UPDATE=1` writes the second anew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::gateway::Gateway;
use crate::harness::tool::{Told, Tool};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden")
}

#[test]
fn golden_files() {
    let mut cases: Vec<PathBuf> = fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension != "txt"))
        .collect();
    cases.sort();
    assert!(cases.len() > 5, "{cases:?}");
    let mut differ = String::new();
    for case in cases {
        let found = transcript(&case);
        let beside = PathBuf::from(format!("{}.txt", case.display()));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&beside, &found).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        if found != expected {
            let _ = writeln!(differ, "{}:\n{}", case.display(), difference(&expected, &found));
        }
    }
    assert!(differ.is_empty(), "UPDATE=1 writes the files anew\n{differ}");
}

/// What the commands in the first lines of a file print.
fn transcript(case: &Path) -> String {
    let name = case.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(case).unwrap();
    let commands: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# $ ")).collect();
    assert!(!commands.is_empty(), "{name} does not say what to run");
    let mut found = String::new();
    for command in commands {
        let command = command.replace("{}", name);
        let Told { code, out, err } = Tool::new(&command).within(&golden()).run();
        let _ = writeln!(found, "$ portcullis {command}\n{out}{err}exit {}\n", code.unwrap_or(-1));
    }
    found
}

/// The lines in which two texts differ.
fn difference(expected: &str, found: &str) -> String {
    let only = |sign: &str, these: &str, those: &str| -> String {
        these
            .lines()
            .filter(|line| !those.lines().any(|other| other == *line))
            .map(|line| format!("{sign}{line}\n"))
            .collect()
    };
    only("- ", expected, found) + &only("+ ", found, expected)
}

#[test]
fn ten_mistakes_are_ten_lines_with_their_places() {
    let told = Tool::new("check ten-mistakes.yaml").within(&golden()).run();
    let lines: Vec<&str> = told.out.lines().filter(|line| line.contains("error: ")).collect();
    for (line, column, part) in [
        (6, 7, "unknown matcher `Hostt`"),
        (10, 7, "\"nowhere@file\" does not exist"),
        (14, 7, "unknown key (did you mean `priority`?)"),
        (16, 21, "\"webb\" doesn't exist"),
        (21, 21, "\"absent@file\" does not exist"),
        (24, 7, "found the end of the rule"),
        (29, 18, "expected a whole number"),
        (31, 7, "prefix cannot be empty"),
        (33, 7, "multi-types middleware"),
        (43, 13, "`ftp`"),
    ] {
        let place = format!("ten-mistakes.yaml:{line}:{column}: error: ");
        let found = lines.iter().any(|told| told.starts_with(&place) && told.contains(part));
        assert!(found, "{place}{part} is not among\n{}", told.out);
    }
    assert!(lines.iter().all(|line| line.starts_with("ten-mistakes.yaml:")), "{}", told.out);
    assert_eq!(told.code, Some(3));
}

#[test]
fn exit_codes() {
    for (command, code) in [
        ("--help", 0),
        ("help run", 0),
        ("version", 0),
        ("frobnicate", 2),
        ("check --entryPoints.web.address=:0", 0),
        ("check --entryPoints.web.adress=:0", 3),
        ("check --log.level=LOUD", 3),
        ("check --strict --log.maxSize=5", 4),
        ("-t --entryPoints.web.adress=:0", 3),
        ("run --entryPoints.web.adress=:0", 78),
        ("--entryPoints.web.adress=:0", 78),
        ("run --configFile=/nonexistent.yaml", 78),
        ("explain GET", 2),
        ("explain GET nonsense", 2),
        ("healthcheck", 1),
        ("healthcheck --ping --entryPoints.traefik.address=127.0.0.1:9", 1),
        ("reload --control /nonexistent", 1),
        ("upgrade --control /nonexistent", 1),
        ("upgrade --timeout never", 2),
        ("completions klingon", 2),
        ("config schema", 0),
        ("config print --entryPoints.web.address=:0", 0),
        ("config print --entryPoints.web.adress=:0", 3),
    ] {
        let told = Tool::new(command).run();
        assert_eq!(told.code, Some(code), "{command}: {told:?}");
        assert!(code != 2 || !told.err.is_empty(), "{command} says nothing");
    }
}

#[test]
fn variables_that_are_no_text_bring_nothing_down() {
    let told = Tool::new("check --entryPoints.web.address=:0").env_without_text("OF_SOMEBODY_ELSE").run();
    assert_eq!(told.code, Some(0), "{told:?}");
    let told = Tool::new("check").env_without_text("TRAEFIK_ENTRYPOINTS_WEB_ADDRESS").run();
    assert_eq!(told.code, Some(3), "{told:?}");
}

/// Whoever watches over the process tries again only where that may help.
#[test]
fn a_start_that_fails_says_whether_to_try_again() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let run = |flag: &str| {
        let runtime = folder.path().to_str().unwrap();
        let told = Tool::with(["run", flag]).env("RUNTIME_DIRECTORY", runtime).within(folder.path()).run();
        assert!(told.err.contains("not started"), "{told:?}");
        told.code
    };
    assert_eq!(run(&format!("--entryPoints.web.address={address}")), Some(1));
    assert_eq!(run("--entryPoints.web.adress=:0"), Some(78));
}

#[test]
fn texts_for_machines() {
    let version: Value = serde_json::from_str(&Tool::new("version --json").run().out).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let schema: Value = serde_json::from_str(&Tool::new("config schema").run().out).unwrap();
    for path in ["/properties/entryPoints", "/properties/http/properties/routers", "/properties/providers"] {
        assert!(schema.pointer(path).is_some(), "{path}");
    }
    let script = Tool::new("completions bash").run().out;
    assert!(script.contains("complete -F _portcullis") && script.contains("healthcheck"));
    for shell in ["zsh", "fish"] {
        assert_eq!(Tool::with(["completions", shell]).run().code, Some(0), "{shell}");
    }
    let page = Tool::new("man").run().out;
    for part in [".TH portcullis 1", "Exit codes", "explain", "EX_CONFIG|78"] {
        assert!(part.split('|').any(|part| page.contains(part)), "{part}");
    }
}

#[test]
fn json_has_every_field() {
    let told = Tool::new("check --json ten-mistakes.yaml").within(&golden()).run();
    let problems: Vec<Value> = serde_json::from_str(&told.out).unwrap();
    assert!(problems.len() >= 10);
    let typo = problems.iter().find(|problem| problem["path"] == "http.routers.unknown-key.prioriti").unwrap();
    assert_eq!(
        *typo,
        serde_json::json!({
            "severity": "error", "path": "http.routers.unknown-key.prioriti", "source": "ten-mistakes.yaml",
            "line": 14, "column": 7, "message": "unknown key", "help": "did you mean `priority`?",
        })
    );
}

/// Traefik takes flags, environment or file; here they add up, and that is told.
#[test]
fn sources_are_merged() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("static.yaml"), "entryPoints: {web: {address: ':1'}, file: {address: ':2'}}\n")
        .unwrap();
    let told =
        Tool::new("config print --configFile=static.yaml --entryPoints.flag.address=:4 --entryPoints.web.address=:5")
            .within(folder.path())
            .env("TRAEFIK_ENTRYPOINTS_ENVIRONMENT_ADDRESS", ":3")
            .env("TRAEFIK_ENTRYPOINTS_FILE_ADDRESS", ":6")
            .run();
    for (name, address) in [("web", ":5"), ("file", ":6"), ("environment", ":3"), ("flag", ":4")] {
        let section = format!("[entryPoints.{name}]\naddress = \"{address}\"\n");
        assert!(told.out.contains(&section), "{section} is not in {}", told.out);
    }
    assert_eq!(told.code, Some(0));
}

#[tokio::test]
async fn merged_sources_are_told_when_it_runs() {
    let mut gateway = Gateway::setup().env("TRAEFIK_PING", "true").start().await;
    assert!(gateway.log().contains("TRAEFIK_PING") || gateway.log().contains("environment"), "{}", gateway.log());
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn a_line_of_flags_runs() {
    let gateway = Gateway::setup().without_verb().flag("ping").flag("ping.entryPoint=web").start().await;
    assert_eq!(gateway.connect().await.get("/ping", "").await.text(), "OK");
}

#[tokio::test]
async fn health_is_asked_for() {
    let gateway = Gateway::setup().flag("ping").flag("ping.entryPoint=web").start().await;
    let address = gateway.address();
    let told =
        Tool::with(["healthcheck", "--ping", "--ping.entryPoint=web", &format!("--entryPoints.web.address={address}")]);
    let told = told.run_beside().await;
    assert_eq!((told.code, told.out), (Some(0), format!("OK: http://{address}/ping\n")));
}

#[tokio::test]
async fn the_demo_says_what_to_try_and_it_works() {
    let demo = Gateway::demo().await;
    assert!(demo.read("output").contains(&format!("curl http://{}/", demo.address())), "{}", demo.read("output"));
    let mut peer = demo.connect().await;
    let mut names = Vec::new();
    for _ in 0..6 {
        let answer = peer.get("/", "").await;
        names.push(answer.text().lines().next().unwrap_or_default().to_owned());
    }
    names.sort();
    assert_eq!(names, ["Name: one", "Name: one", "Name: one", "Name: three", "Name: two", "Name: two"]);
    assert!(peer.get("/api/users", "").await.text().contains("GET /users "));
    assert_eq!(peer.get("/old/page", "").await.status, 301);
    let mut refused = 0;
    for _ in 0..8 {
        refused += usize::from(peer.get("/limited", "").await.status == 429);
    }
    assert!(refused >= 2, "{refused} of 8 were refused");
}

/// A gateway that hangs does not keep whoever asks it something.
#[test]
fn ctrl_c_ends_who_waits_for_an_answer() {
    use std::os::unix::process::ExitStatusExt;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control");
    let silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut asking = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["reload", "--control", socket.to_str().unwrap()])
        .spawn()
        .unwrap();
    let _connected = silent.accept().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(asking.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::USR1).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert_eq!(asking.wait().unwrap().signal(), Some(2));
}
