//! `portcullis demo`: an embedded configuration and three embedded servers, to see the gateway work without writing a file.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::app::{self, Start};
use crate::cli::{DemoArgs, Exit};
use crate::config::{Format, Routing, load};
use crate::control::Updates;
use crate::problem::{Problem, Problems};
use crate::process::Signals;
use crate::provider::Provider;

pub mod whoami;

/// The demo's configuration, static and dynamic in one; `{web}`, `{api}` and `{server1}`… are addresses.
const CONFIGURATION: &str = include_str!("demo.toml");

/// Names of the embedded servers.
const SERVERS: [&str; 3] = ["one", "two", "three"];

/// Runs the demo until a signal ends it.
pub fn run(arguments: &DemoArgs, signals: Signals) -> Exit {
    let mut servers = [SocketAddr::from(([127, 0, 0, 1], 0)); 3];
    for (address, name) in servers.iter_mut().zip(SERVERS) {
        match whoami::spawn(*address, name) {
            Ok(bound) => *address = bound,
            Err(error) => {
                eprintln!("portcullis: the server `{name}` cannot start: {error}");
                return Exit::Failed;
            }
        }
    }
    let text = configuration(arguments.web, arguments.api, &servers);
    let (install, problems) = load::install_text(&text, Format::Toml, "demo");
    let embedded = Embedded { text };
    let start = Start {
        install,
        problems,
        providers: vec![Arc::new(embedded)],
        invitation: Some(invitation(arguments.web, arguments.api)),
        ..Start::default()
    };
    let exit = app::run(start, signals);
    if exit == Exit::Config {
        eprintln!("portcullis: `portcullis demo --web ADDRESS --api ADDRESS` listens elsewhere");
    }
    exit
}

/// The embedded configuration as a provider.
struct Embedded {
    text: String,
}

impl Provider for Embedded {
    fn name(&self) -> &str {
        "demo"
    }

    fn read(&self, updates: &Updates) {
        let (routing, problems): (Routing, Problems) = load::dynamic(&self.text, Format::Toml, "demo", "demo");
        updates.publish(Arc::new(routing), problems, None);
    }

    fn watch(self: Arc<Self>, _: Updates) -> Result<(), Problem> {
        Ok(())
    }
}

/// The demo's configuration with its addresses filled in.
fn configuration(web: SocketAddr, api: SocketAddr, servers: &[SocketAddr; 3]) -> String {
    let mut text = CONFIGURATION.replace("{web}", &web.to_string()).replace("{api}", &api.to_string());
    for (index, server) in servers.iter().enumerate() {
        text = text.replace(&format!("{{server{}}}", index + 1), &server.to_string());
    }
    text
}

/// What the demo prints: the lines to try.
fn invitation(web: SocketAddr, api: SocketAddr) -> String {
    format!(
        "\
Portcullis is running. Try, in another terminal:

  curl http://{web}/                        three servers in turn: one of weight 3, two of 2, three of 1
  curl -H 'Accept: application/json' http://{web}/
                                            the same as JSON
  curl http://{web}/api/users               a prefix that the server does not see: it is asked for /users
  for i in $(seq 8); do curl -s -o /dev/null -w '%{{http_code}} ' http://{web}/limited; done; echo
                                            five at once, then one each second: 429 for the others
  curl -i http://{web}/old/page             a redirect to /api/page
  curl http://{api}/api/http/routers        what runs; in a browser: http://{api}/dashboard/
  curl http://{api}/metrics                 what was counted
  curl http://{api}/ping                    whether it is well

Ctrl-C ends it.
"
    )
}
