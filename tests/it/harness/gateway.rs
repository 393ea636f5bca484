//! The program itself as a child process: configuration in, log and access log out, ended when dropped.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::peer::{PATIENCE, Peer};
use super::tool::{Told, Tool};

/// What a gateway is started with.
#[derive(Default)]
pub(crate) struct Setup {
    entry_points: Vec<String>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    dynamic: String,
    /// Instead of the program that was built.
    program: Option<PathBuf>,
    /// A line of flags without the verb `run`.
    bare: bool,
}

impl Setup {
    /// One more entry point besides `web`, on a free port of the loopback.
    pub(crate) fn entry_point(mut self, name: &str) -> Self {
        self.entry_points.push(name.to_owned());
        self
    }

    /// A line of static configuration, as `entryPoints.web.http.sanitizePath=false`.
    pub(crate) fn flag(mut self, flag: impl AsRef<str>) -> Self {
        self.flags.push(format!("--{}", flag.as_ref()));
        self
    }

    /// A variable of the environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves out the verb.
    pub(crate) fn without_verb(mut self) -> Self {
        self.bare = true;
        self
    }

    /// The dynamic configuration, in YAML.
    pub(crate) fn dynamic(mut self, text: impl Into<String>) -> Self {
        self.dynamic = text.into();
        self
    }

    /// Another file than the one that was built, for tests that replace it.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// Starts the program and waits until it serves.
    pub(crate) async fn start(self) -> Gateway {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("dynamic.yaml"), &self.dynamic).expect("write");
        let built = Path::new(env!("CARGO_BIN_EXE_portcullis"));
        let mut command = Command::new(self.program.as_deref().unwrap_or(built));
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").envs(self.environment);
        if !self.bare {
            command.arg("run");
        }
        for name in ["web"].into_iter().chain(self.entry_points.iter().map(String::as_str)) {
            command.arg(format!("--entryPoints.{name}.address=127.0.0.1:0"));
        }
        for (key, name) in [
            ("providers.file.filename", "dynamic.yaml"),
            ("log.filePath", "process.log"),
            ("accessLog.filePath", "access.log"),
            ("control.socket", "control"),
        ] {
            command.arg(format!("--{key}={}", path(name).display()));
        }
        let defaults = [
            "--log.format=json",
            "--log.level=DEBUG",
            "--accessLog.format=json",
            "--providers.providersThrottleDuration=10ms",
            "--threads=2",
        ];
        let key = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let is_set = |flag: &&str| self.flags.iter().any(|set| key(set) == key(flag));
        command.args(defaults.iter().filter(|flag| !is_set(flag))).args(&self.flags);
        Gateway::start(command, folder, "\"serving\"").await
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    child: Child,
    folder: TempDir,
}

impl Gateway {
    pub(crate) fn setup() -> Setup {
        Setup::default()
    }

    /// A gateway with one entry point, `web`, and this dynamic configuration.
    pub(crate) async fn with(dynamic: impl Into<String>) -> Self {
        Self::setup().dynamic(dynamic).start().await
    }

    /// `portcullis demo` on ports that are free.
    pub(crate) async fn demo() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
        let (web, api) = (free(), free());
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["demo", &format!("--web={web}"), &format!("--api={api}")]);
        command.env("RUNTIME_DIRECTORY", folder.path());
        // The demo is silent about what it does, so this stands for what it would log.
        let told = format!("entry point web listens on {web}\" entry point traefik listens on {api}\"");
        fs::write(folder.path().join("process.log"), told).expect("write");
        Self::start(command, folder, "Ctrl-C ends it").await
    }

    /// `portcullis` with exactly these arguments, which let it log to `process.log` in the folder.
    pub(crate) async fn bare(arguments: &[&str], folder: TempDir) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(arguments).env("RUNTIME_DIRECTORY", folder.path());
        Self::start(command, folder, "serving").await
    }

    /// The same, with sockets that somebody else holds as well and passes on by these names, as systemd does: three at most. The shell
    /// that does it becomes the program.
    pub(crate) async fn activated(sockets: Vec<(&str, OwnedFd)>, arguments: &[&str], folder: TempDir) -> Self {
        let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
        let moves: String = (0..names.len()).map(|at| format!(" {}<&{at}", at + 3)).collect();
        let output = folder.path().join("output");
        let script = format!(
            "exec{moves} 0</dev/null 1>'{}' 2>&1; LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={} exec \"$0\" \"$@\"",
            output.display(),
            names.len(),
            names.join(":")
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_portcullis")]).args(arguments);
        command.env("RUNTIME_DIRECTORY", folder.path()).env_remove("NOTIFY_SOCKET");
        let mut sockets = sockets.into_iter().map(|(_, socket)| Stdio::from(socket));
        let mut next = || sockets.next().unwrap_or_else(Stdio::null);
        command.stdin(next()).stdout(next()).stderr(next());
        Self::spawn(command, folder, "serving").await
    }

    /// Starts a command whose files lie in this folder, and waits until it says so.
    async fn start(mut command: Command, folder: TempDir, sign: &str) -> Self {
        let output = fs::File::create(folder.path().join("output")).expect("a file");
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a duplicate")).stderr(output);
        Self::spawn(command, folder, sign).await
    }

    async fn spawn(mut command: Command, folder: TempDir, sign: &str) -> Self {
        let child = command.spawn().expect("the program starts");
        let mut gateway = Self { child, folder };
        gateway.serves(sign).await;
        gateway
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of the gateway as text; empty as long as it is not there.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read(self.file(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// What the process has said.
    pub(crate) fn log(&self) -> String {
        self.read("process.log")
    }

    /// Where the entry point `name` listens.
    pub(crate) fn address_of(&self, name: &str) -> SocketAddr {
        let words = format!("entry point {name} listens on ");
        let log = self.log();
        let at = log.find(&words).unwrap_or_else(|| panic!("{name} does not listen: {log}"));
        let rest = &log[at + words.len()..];
        rest[..rest.find('"').expect("a quote")].parse().expect("an address")
    }

    /// Where `web` listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address_of("web")
    }

    /// A connection to `web`.
    pub(crate) async fn connect(&self) -> Peer {
        Peer::connect(self.address()).await
    }

    /// The lines of the access log so far.
    pub(crate) fn access_log(&self) -> Vec<Value> {
        self.read("access.log")
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    /// The first line of the access log for which `wanted` holds; waits for it.
    pub(crate) async fn logged(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let by = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.access_log().into_iter().find(&wanted) {
                return line;
            }
            assert!(Instant::now() < by, "no such line: {:#?}", self.access_log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The access log's line of the request for `path`, without its query.
    pub(crate) async fn logged_path(&self, path: &str) -> Value {
        self.logged(|line| {
            let logged = line["RequestPath"].as_str().unwrap_or_default();
            logged.split('?').next() == Some(path)
        })
        .await
    }

    /// Replaces the dynamic configuration and waits until it is in force, or refused.
    pub(crate) async fn apply(&self, dynamic: &str) {
        fs::write(self.file("next.yaml"), dynamic).expect("write");
        fs::rename(self.file("next.yaml"), self.file("dynamic.yaml")).expect("rename");
        self.command("reload").await;
    }

    /// A command over the control socket, as `portcullis reload`; what it printed.
    pub(crate) async fn command(&self, verb: &str) -> String {
        let told = self.told(verb).await;
        told.out + &told.err
    }

    /// A command over the control socket: what it printed, and how it ended.
    pub(crate) async fn told(&self, verb: &str) -> Told {
        let socket = self.file("control");
        let tool = Tool::with([verb, "--control", socket.to_str().expect("text")]);
        super::peer::soon(tool.run_beside()).await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }

    /// Waits until the process has ended by itself; its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let by = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(Instant::now() < by, "it still runs: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether the process is alive.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    async fn serves(&mut self, sign: &str) {
        let by = Instant::now() + PATIENCE;
        while !self.log().contains(sign) && !self.read("output").contains(sign) {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("it ended with {status}: {}{}", self.read("output"), self.log());
            }
            assert!(Instant::now() < by, "it does not serve: {}{}", self.read("output"), self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let by = Instant::now() + Duration::from_millis(300);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < by {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway said:\n{}{}", self.read("output"), self.log());
        }
    }
}
