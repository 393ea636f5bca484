//! The drill: an origin that remembers, a load that never retries, and a count of everything that went wrong between them.
//!
//! `drill origin` serves; `drill load` sends several classes of traffic through a gateway to that origin for a while, at fixed rates
//! whatever the answers do (open loop), and then asks the origin what really happened; `drill tell` sends a gateway a command.

mod grpc;
mod load;
mod origin;
mod secure;
mod tally;
mod websocket;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use portcullis::process::command::{self, Command};

#[derive(Parser)]
#[command(about = "Sends traffic through a gateway and counts what it breaks")]
struct Options {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Serves as the backend.
    Origin {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:9900")]
        listen: SocketAddr,
    },
    /// Sends the traffic; ends with code 1 if anything failed.
    Load(load::Options),
    /// Makes an authority and a certificate of it for the gateway: `ca.pem`, `cert.pem`, `key.pem`.
    Certify {
        /// Where to put them.
        folder: PathBuf,
    },
    /// Sends a command to a gateway's control socket and prints the answer.
    Tell {
        /// The control socket.
        socket: PathBuf,
        /// `reload`, `upgrade`, `status`, `drain` or `reopen-logs`.
        #[arg(value_parser = parse_command)]
        command: Command,
    },
}

fn parse_command(text: &str) -> Result<Command, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let mode = Options::parse().mode;
    if let Mode::Tell { socket, command } = mode {
        return tell(&socket, command);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    let result = runtime.block_on(async {
        match mode {
            Mode::Origin { listen } => origin::serve(listen).await.map(|()| true),
            Mode::Load(options) => load::run(options).await,
            Mode::Certify { folder } => secure::certify(&folder).map(|()| true),
            Mode::Tell { .. } => Ok(true),
        }
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => complain(&error),
    }
}

fn tell(socket: &std::path::Path, command: Command) -> ExitCode {
    match command::send(socket, command, Duration::from_secs(120)) {
        Ok(answer) => {
            println!("{}", answer.message);
            answer.problems.iter().for_each(|problem| println!("{problem}"));
            if answer.done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problem) => complain(&problem),
    }
}

fn complain(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("drill: {error}");
    ExitCode::from(2)
}
