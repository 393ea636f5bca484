//! Reads the command line, runs it, and maps the end to an exit code.

use std::process::ExitCode;

use portcullis::cli::{self, Cli, ConfigVerb, Exit, Verb};
use portcullis::process::Signals;
use portcullis::{app, check, demo, explain};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First of all: a signal that comes before the handlers stand would end the process.
    let signals = Signals::install();
    let cli = match Cli::read(std::env::args()) {
        Ok(cli) => cli,
        Err(message) => {
            // Nobody is left to be told if the terminal is gone.
            let _ = message.print();
            return if message.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    // Installed before anything of Pingora's, which would otherwise install its own choice.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("portcullis: signals cannot be handled: {error}");
            return Exit::Failed.into();
        }
    };
    // Who only looks or asks is ended by Ctrl-C like any program.
    if !cli.verb.lasts()
        && let Err(error) = signals.release()
    {
        eprintln!("portcullis: signals cannot be handled: {error}");
        return Exit::Failed.into();
    }
    carry_out(cli.verb, signals).into()
}

fn carry_out(verb: Verb, signals: Signals) -> Exit {
    match verb {
        Verb::Run(arguments) => app::run_flags(&arguments.flags, signals),
        Verb::Demo(arguments) => demo::run(&arguments, signals),
        Verb::Whoami(arguments) => demo::whoami::run(&arguments, signals),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Explain(arguments) => explain::run(&arguments),
        Verb::Healthcheck(arguments) => check::ask_health(&arguments.flags),
        Verb::Version(arguments) => {
            cli::print_version(&arguments);
            Exit::Ok
        }
        Verb::Reload(arguments) => cli::send(&arguments, portcullis::process::command::Command::Reload),
        Verb::Upgrade(arguments) => cli::send(&arguments, portcullis::process::command::Command::Upgrade),
        Verb::Config(ConfigVerb::Print(arguments)) => check::print_config(&arguments.flags),
        Verb::Config(ConfigVerb::Schema) => check::print_schema(),
        Verb::Completions(arguments) => {
            cli::print_completions(arguments.shell);
            Exit::Ok
        }
        Verb::Man => match cli::print_man() {
            Ok(()) => Exit::Ok,
            Err(_) => Exit::Failed,
        },
    }
}
