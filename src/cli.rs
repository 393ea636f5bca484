//! The command line: verbs, and what each exit code means.

use std::fmt::Display;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::process::command::{self, Command};

/// How the process ends. Documented in the man page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// Something failed at run time, or is unhealthy.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration has errors.
    Invalid = 3,
    /// The configuration has warnings only, and `--strict` was asked for.
    Warnings = 4,
    /// `run` cannot start with this configuration (`EX_CONFIG`): restarting it will not help.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// API gateway and edge reverse proxy: Traefik's configuration, Pingora's speed, no dropped connection.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    disable_version_flag = true,
    subcommand_required = true,
    after_help = "Without a verb, `run` is meant, so that a line of Traefik flags works as it is:\n  \
    portcullis --entryPoints.web.address=:80 --providers.file.filename=routes.yaml",
    after_long_help = "\
Exit codes:
  0   all is well
  1   something failed at run time, or is unhealthy
  2   the command line is wrong
  3   the configuration has errors
  4   the configuration has warnings only, and --strict was asked for
  78  `run` cannot start with this configuration (an address that is taken: 1)

Signals:
  TERM, INT  drain and end; a second one ends at once
  QUIT       drain and end
  HUP        read the configuration again
  USR1       reopen log files
  USR2       replace the running binary without dropping a connection"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

impl Verb {
    /// Whether it runs until a signal ends it.
    pub fn lasts(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Demo(_) | Self::Whoami(_))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the gateway (also what happens without a verb)
    Run(RunArgs),
    /// Run with an embedded configuration and three embedded servers, to see it work
    Demo(DemoArgs),
    /// Run one small server that tells what it was asked
    Whoami(WhoamiArgs),
    /// Read the configuration, print everything that is wrong with it, and end
    #[command(visible_alias = "validate")]
    Check(CheckArgs),
    /// Say which router a request takes, why, and where it would go
    Explain(ExplainArgs),
    /// Ask a running gateway's ping entry point whether it is well
    Healthcheck(RunArgs),
    /// Print the version
    Version(VersionArgs),
    /// Have a running gateway read its configuration again, entry points included, and wait for the outcome
    Reload(ControlArgs),
    /// Replace a running gateway's binary without dropping a connection, and wait for the outcome
    Upgrade(ControlArgs),
    /// Print or describe the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print a shell's completion script
    Completions(CompletionsArgs),
    /// Print the manual page (roff)
    Man,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Static configuration as flags: --configFile=F, --entryPoints.web.address=:80, every key of Traefik's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub flags: Vec<String>,
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the demo's entry point listens
    #[arg(long, default_value = "127.0.0.1:8000")]
    pub web: SocketAddr,
    /// Where its API and metrics listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub api: SocketAddr,
}

/// Flags of `whoami`.
#[derive(Debug, Args)]
pub struct WhoamiArgs {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// What it calls itself
    #[arg(long, default_value = "whoami")]
    pub name: String,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Warnings count as errors (exit code 4)
    #[arg(long)]
    pub strict: bool,
    /// Print problems as JSON
    #[arg(long)]
    pub json: bool,
    /// A configuration file, static or dynamic, and static flags: `check dynamic.yaml --configFile=static.yaml`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FILE | FLAGS")]
    pub rest: Vec<String>,
}

/// Flags of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Method, as GET; or TCP, TLS or UDP, for what comes before a request
    pub method: String,
    /// URL as the client would ask for it; HOST:PORT for TCP, TLS and UDP
    pub url: String,
    /// Header of the request, as 'Name: value'
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// The client's address
    #[arg(long, default_value = "127.0.0.1")]
    pub client: IpAddr,
    /// Protocol that the client offers over TLS (ALPN), once for each; by default `h2` and `http/1.1` for a request
    #[arg(long, value_name = "PROTOCOL")]
    pub alpn: Vec<String>,
    /// Entry point that the request arrives at; by default the one that listens on the URL's port, else the first
    #[arg(long)]
    pub entry_point: Option<String>,
    /// Static configuration as flags, as for `run`
    #[arg(last = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub flags: Vec<String>,
    /// Configuration file, static or dynamic
    #[arg(short = 'c', long = "configFile", alias = "configfile", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
}

/// Flags of `version`.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of the verbs that talk to a running gateway.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// The gateway's control socket
    #[arg(long, value_name = "SOCKET", env = "PORTCULLIS_CONTROL_SOCKET")]
    pub control: Option<PathBuf>,
    /// How long to wait for the outcome, in seconds
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Print the effective static configuration, merged from file, environment and flags
    Print(ConfigPrintArgs),
    /// Print the JSON Schema of configuration files, static and dynamic keys alike
    Schema,
}

/// Flags of `config print`.
#[derive(Debug, Args)]
pub struct ConfigPrintArgs {
    /// Static configuration as flags, as for `run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub flags: Vec<String>,
}

/// Flags of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

impl Cli {
    /// Reads the command line. A line that starts with a flag, or is empty, means `run`.
    ///
    /// # Errors
    /// Clap's message: help, or what is wrong.
    pub fn read(arguments: impl IntoIterator<Item = String>) -> Result<Self, clap::Error> {
        let mut arguments: Vec<String> = arguments.into_iter().collect();
        let means_run = match arguments.get(1).map(String::as_str) {
            None => true,
            Some("-h" | "--help" | "help") => false,
            Some("-V" | "--version") => {
                arguments[1] = "version".to_owned();
                false
            }
            Some("-t" | "configtest") => {
                arguments[1] = "check".to_owned();
                false
            }
            Some(first) => first.starts_with('-'),
        };
        if means_run {
            arguments.insert(1, "run".to_owned());
        }
        Self::try_parse_from(arguments)
    }
}

/// Writes to standard output. Whoever reads it may have seen enough and be gone (`portcullis config schema | head`).
pub fn tell(text: impl Display) {
    let _ = write!(std::io::stdout(), "{text}");
}

/// Prints a shell's completion script.
pub fn print_completions(shell: clap_complete::Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "portcullis", &mut script);
    tell(String::from_utf8_lossy(&script));
}

/// Prints the manual page.
///
/// # Errors
/// If standard output is closed.
pub fn print_man() -> std::io::Result<()> {
    clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?;
    for verb in Cli::command().get_subcommands() {
        let name: &'static str = Box::leak(format!("portcullis-{}", verb.get_name()).into_boxed_str());
        clap_mangen::Man::new(verb.clone().name(name)).render(&mut std::io::stdout())?;
    }
    Ok(())
}

/// Prints the version.
pub fn print_version(arguments: &VersionArgs) {
    let version = env!("CARGO_PKG_VERSION");
    if arguments.json {
        let told =
            serde_json::json!({ "version": version, "os": std::env::consts::OS, "arch": std::env::consts::ARCH });
        tell(format_args!("{told}\n"));
    } else {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        tell(format_args!("Version:      {version}\nOS/Arch:      {os}/{arch}\n"));
    }
}

/// Sends a command to a running gateway and prints how it went.
pub fn send(arguments: &ControlArgs, command: Command) -> Exit {
    let answer = command::find_socket(arguments.control.as_deref())
        .and_then(|socket| command::send(&socket, command, arguments.timeout));
    match answer {
        Ok(answer) => {
            for problem in &answer.problems {
                eprintln!("{problem}");
            }
            if answer.done {
                tell(format_args!("{}\n", answer.message));
            } else {
                eprintln!("portcullis: {}", answer.message);
            }
            for notice in &answer.notices {
                tell(format_args!("{notice}\n"));
            }
            if answer.done { Exit::Ok } else { Exit::Failed }
        }
        Err(problem) => {
            eprintln!("{problem}");
            Exit::Failed
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<u64>().map(Duration::from_secs).map_err(|_| "expected a number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Cli {
        Cli::read(line.split(' ').map(str::to_owned)).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn traefik_lines_mean_run() {
        for line in ["portcullis", "portcullis --entryPoints.web.address=:80 --api", "portcullis run --configFile x"] {
            assert!(matches!(read(line).verb, Verb::Run(_)), "{line}");
        }
        let Verb::Run(arguments) = read("portcullis --configFile=a --api").verb else { panic!("not run") };
        assert_eq!(arguments.flags, ["--configFile=a", "--api"]);
    }

    #[test]
    fn old_fingers_find_their_verbs() {
        assert!(matches!(read("portcullis -t").verb, Verb::Check(_)));
        assert!(matches!(read("portcullis --version").verb, Verb::Version(_)));
        assert!(matches!(read("portcullis check a.yaml --strict").verb, Verb::Check(_)));
    }
}
