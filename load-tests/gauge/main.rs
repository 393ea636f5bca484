//! The gauge: the loads and servers that `compare.sh` needs and no package has, made to take little of the core that they share.
//!
//! `gauge serve` answers behind a proxy, `gauge load` repeats one unit of work through it until the time is up and prints a line for
//! each figure, `gauge hold` opens connections, uses each once, and keeps them until it is ended.

mod hold;
mod load;
mod serve;
mod tally;
mod tls;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Loads and servers to measure proxies with")]
enum Options {
    /// Serves behind a proxy.
    Serve {
        #[command(subcommand)]
        kind: serve::Kind,
        /// Where to listen.
        #[arg(long, global = true, default_value = "127.0.0.1:9900")]
        listen: SocketAddr,
    },
    /// Repeats one unit of work until the time is up.
    Load(load::Options),
    /// Opens connections, sends one request over each, says `held` and how many, and keeps them until it is ended.
    Hold(hold::Options),
}

fn main() -> ExitCode {
    let options = Options::parse();
    // One thread: it shares its core with the server, and more of them would only wait for each other.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    let tasks = tokio::task::LocalSet::new();
    let result = runtime.block_on(tasks.run_until(async {
        match options {
            Options::Serve { kind, listen } => serve::run(kind, listen).await,
            Options::Load(options) => load::run(options).await,
            Options::Hold(options) => hold::run(options).await,
        }
    }));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

fn complain(error: &io::Error) -> ExitCode {
    eprintln!("gauge: {error}");
    ExitCode::from(2)
}

/// An error in what was received.
fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
