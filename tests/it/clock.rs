//! D-CLOCK: somebody sets the clock on the wall. Limits, health and connections go by another one; only what is told goes by it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::gateway::Gateway;
use crate::harness::peer::{Peer, soon, until};
use crate::harness::server::{Server, ok};

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;
/// Requests that the limit lets through, none of which comes back while the test runs.
const BURST: usize = 5;

/// A clock that only the process sees which is started with it.
pub(crate) struct Clock {
    folder: tempfile::TempDir,
}

impl Clock {
    pub(crate) fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clock.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let built = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(folder.path().join("clock.so"))
            .arg(source)
            .status();
        assert!(built.expect("a C compiler, which the gateway needs, too").success());
        let clock = Self { folder };
        fs::write(clock.path("moved"), 0_i64.to_ne_bytes()).unwrap();
        clock
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Moves it by so many seconds from the true time.
    pub(crate) fn set(&self, seconds: i64) {
        // Over what is there: the file is mapped.
        let file = fs::OpenOptions::new().write(true).open(self.path("moved")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &seconds.to_ne_bytes(), 0).unwrap();
    }
}

/// The year, give or take one.
fn year_at(moved: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    1970 + (now + moved) / YEAR
}

#[tokio::test]
async fn the_clock_on_the_wall_may_go_as_it_likes() {
    let server = Server::start(|_| ok("fine")).await;
    let clock = Clock::build();
    let gateway = Gateway::setup()
        .env("LD_PRELOAD", &clock.path("clock.so"))
        .env("TEST_CLOCK", &clock.path("moved"))
        .dynamic(format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: one}}
    limited: {{rule: 'Path(`/limited`)', service: one, middlewares: [limit]}}
  middlewares:
    limit: {{rateLimit: {{average: 1, period: 24h, burst: {BURST}}}}}
  services:
    one: {{loadBalancer: {{servers: [{{url: '{}'}}], healthCheck: {{path: /health, interval: 50ms, timeout: 5s}}}}}}
",
            server.url()
        ))
        .start()
        .await;
    let probes = || server.received().iter().filter(|request| request.path() == "/health").count();
    let mut first = gateway.connect().await;
    for _ in 0..BURST {
        assert_eq!(soon(first.get("/limited", "")).await.status, 200);
    }
    let jumps = [0, HOUR, -HOUR, 10 * YEAR, -10 * YEAR, 0];
    for (step, moved) in jumps.into_iter().chain((0..20).map(|second| second % 2)).enumerate() {
        clock.set(moved);
        let path = format!("/at-{step}");
        assert_eq!(soon(first.get(&path, "")).await.status, 200, "{moved} s: over a connection from before");
        let mut fresh: Peer = gateway.connect().await;
        assert_eq!(soon(fresh.get("/", "")).await.status, 200, "{moved} s: over a new connection");
        assert_eq!(soon(first.get("/limited", "")).await.status, 429, "{moved} s: no quota comes of it");
        let before = probes();
        until(|| probes() >= before + 2).await;
        let line = gateway.logged_path(&path).await;
        let told: i64 = line["StartUTC"].as_str().and_then(|time| time.get(..4)?.parse().ok()).expect("a year");
        assert!((told - year_at(moved)).abs() <= 1, "{moved} s: {line}");
        let took = line["Duration"].as_i64().expect("nanoseconds");
        assert!((0..5_000_000_000).contains(&took), "{moved} s: {line}");
    }
    let told = gateway.told("reload").await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(!gateway.log().contains("server is down"), "{}", gateway.log());
    assert_eq!(server.violations(), [""; 0]);
}
