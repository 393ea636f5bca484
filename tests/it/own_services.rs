//! What the gateway serves by itself (ping, metrics, the API) follows a reload with its entry points; `healthcheck` finds it.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use crate::harness::gateway::Gateway;
use crate::harness::house::{House, KEPT, free, get, lines, refuses, until_refused};
use crate::harness::peer::Peer;
use crate::harness::tool::{Told, Tool};

fn at(name: &str, address: SocketAddr) -> String {
    format!("{name}: {{address: '{address}'}}")
}

async fn reload(house: &House, entry_points: &[&str], more: &str) -> Told {
    house.write(entry_points, more);
    house.gateway.told("reload").await
}

async fn health(house: &House) -> Told {
    Tool::with(["healthcheck", &format!("--configFile={}", house.file.display())]).run_beside().await
}

async fn text(address: SocketAddr, target: &str) -> String {
    Peer::connect(address).await.get(target, "").await.text().to_owned()
}

#[tokio::test]
async fn ping_goes_where_it_is_written_to_be() {
    let [web_at, admin_at, elsewhere] = [free(), free(), free()];
    let (web, admin) = (at("web", web_at), at("admin", admin_at));
    let house = House::with(&[&web, &admin], "ping: {entryPoint: admin}", "").await;
    let mut steady = Peer::connect(web_at).await;
    assert_eq!(health(&house).await.out, format!("OK: http://{admin_at}/ping\n"));
    // With its entry point.
    let told = reload(&house, &[&web, &at("admin", elsewhere)], "ping: {entryPoint: admin}").await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(health(&house).await.out, format!("OK: http://{elsewhere}/ping\n"));
    assert!(refuses(admin_at).await);
    // To another, while its own goes.
    let told = reload(&house, &[&web], "ping: {entryPoint: web, terminatingStatusCode: 500}").await;
    let changes = [
        "in force: entryPoints.admin: set -> not set",
        "in force: ping.entryPoint: \"admin\" -> \"web\"",
        "in force: ping.terminatingStatusCode: 503 -> 500",
    ];
    assert_eq!((told.code, lines(&told)), (Some(0), changes.to_vec()), "{told:?}");
    assert_eq!(health(&house).await.out, format!("OK: http://{web_at}/ping\n"));
    until_refused(elsewhere).await;
    // Off and on.
    assert_eq!(reload(&house, &[&web], "").await.code, Some(0));
    assert_ne!(text(web_at, "/ping").await, "OK");
    let told = health(&house).await;
    assert!(told.code == Some(1) && told.err.contains("`ping` is not enabled in the configuration"), "{told:?}");
    house.write(&[&web], "ping: {entryPoint: web}");
    let told = health(&house).await;
    assert!(told.code == Some(1) && told.err.contains("not in force"), "{told:?}");
    assert_eq!(house.gateway.told("reload").await.code, Some(0));
    assert_eq!((text(web_at, "/ping").await, health(&house).await.code), ("OK".to_owned(), Some(0)));
    assert_eq!(steady.get("/x", "").await.header("connection"), KEPT);
}

/// Where its new entry point cannot be opened it stays where it is, with that one; and it is found there, whatever is written.
#[tokio::test]
async fn ping_stays_where_it_is_if_its_new_place_cannot_be_had() {
    let [web_at, admin_at] = [free(), free()];
    let blocker = TcpListener::bind(free()).unwrap();
    let taken = blocker.local_addr().unwrap();
    let web = at("web", web_at);
    let house = House::with(&[&web, &at("admin", admin_at)], "ping: {entryPoint: admin}", "").await;
    for (wanted, more) in
        [(at("other", taken), "ping: {entryPoint: other}"), (at("admin", taken), "ping: {entryPoint: admin}")]
    {
        let told = reload(&house, &[&web, &wanted], more).await;
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(told.err.contains(&format!("cannot listen on {taken}")), "{told:?}");
        if more.contains("other") {
            let mistake = "ping: entry point `other` is not open (it is served at `admin` as before)";
            assert!(told.err.contains(mistake), "{told:?}");
            assert!(told.err.contains("entryPoints.admin: stays as it was, as `ping` is served there"), "{told:?}");
        }
        assert!(!told.out.contains("waits for"), "{told:?}");
        assert_eq!((text(admin_at, "/ping").await, get(web_at, "/x").await), ("OK".to_owned(), 200));
        // Somebody else is at the written address, and might even answer.
        let told = health(&house).await;
        assert_eq!((told.code, told.out), (Some(0), format!("OK: http://{admin_at}/ping\n")));
        let place = format!("`ping` is served by entry point `admin` on {admin_at}, not as it is written");
        assert!(told.err.contains(&place), "{}", told.err);
    }
    drop(blocker);
    assert_eq!(house.gateway.told("reload").await.code, Some(0));
    let told = health(&house).await;
    assert_eq!((told.code, told.out, told.err), (Some(0), format!("OK: http://{taken}/ping\n"), String::new()));
    // A mistake changes nothing.
    let told = reload(&house, &[&web], "ping: {entryPoint: admin}").await;
    assert!(told.err.contains("there is no entry point `admin`"), "{told:?}");
    assert_eq!(text(taken, "/ping").await, "OK");
}

#[tokio::test]
async fn the_api_and_metrics_go_along() {
    let [web_at, admin_at, api_at] = [free(), free(), free()];
    let (web, admin, traefik) = (at("web", web_at), at("admin", admin_at), at("traefik", api_at));
    let mut house = House::with(&[&web, &admin], "metrics: {prometheus: {entryPoint: admin}}", "").await;
    let counted = |page: &str| {
        let line = page
            .lines()
            .find(|line| line.starts_with("traefik_entrypoint_requests_total{") && line.contains("entrypoint=\"web\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    assert_eq!((get(web_at, "/x").await, get(web_at, "/x").await), (200, 200));
    assert_eq!(counted(&text(admin_at, "/metrics").await), Some(2.0));
    // The API comes, with an entry point of its own.
    let more = "metrics: {prometheus: {entryPoint: traefik}}\napi: {insecure: true}";
    let told = reload(&house, &[&web, &traefik], more).await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(!told.out.contains("waits"), "{told:?}");
    assert!(
        text(api_at, "/api/overview").await.contains("\"http\"") && text(api_at, "/dashboard/").await.contains("<html")
    );
    assert_eq!(counted(&text(api_at, "/metrics").await), Some(2.0), "it goes on counting");
    until_refused(admin_at).await;
    // It changes, and goes.
    let more =
        "metrics: {prometheus: {entryPoint: traefik}}\napi: {insecure: true, dashboard: false, basePath: /inner}";
    assert_eq!(reload(&house, &[&web, &traefik], more).await.code, Some(0));
    assert!(text(api_at, "/inner/api/overview").await.contains("\"http\""));
    assert_eq!((get(api_at, "/api/overview").await, get(api_at, "/dashboard/").await), (404, 404));
    assert_eq!(reload(&house, &[&web, &traefik], "metrics: {prometheus: {entryPoint: traefik}}").await.code, Some(0));
    assert_eq!(get(api_at, "/inner/api/overview").await, 404);
    // Whether anything is counted waits for an upgrade, and until then is shown where it was.
    let told = reload(&house, &[&web], "").await;
    let waits = |setting: &str| format!("waits for `portcullis upgrade`: {setting}");
    let waiting = [waits("entryPoints.traefik: set -> not set"), waits("metrics: set -> not set")];
    assert_eq!((told.code, lines(&told)), (Some(0), waiting.iter().map(String::as_str).collect()), "{told:?}");
    assert_eq!(counted(&text(api_at, "/metrics").await), Some(2.0));
    house.upgrade().await;
    until_refused(api_at).await;
    assert_eq!(get(web_at, "/x").await, 200);
    let told = reload(&house, &[&web], "metrics: {prometheus: {entryPoint: web}}").await;
    assert_eq!((told.code, lines(&told)), (Some(0), vec![&*waits("metrics: not set -> set")]), "{told:?}");
    house.upgrade().await;
    assert_eq!(get(web_at, "/metrics").await, 200);
}

#[cfg(feature = "acme")]
#[tokio::test]
async fn proofs_for_acme_servers_go_along() {
    let [web_at, admin_at] = [free(), free()];
    let (web, admin) = (at("web", web_at), at("admin", admin_at));
    let mut house = House::start(&[&web, &admin], "").await;
    let folder = house.gateway.folder().display().to_string();
    let proving = |at: &str| {
        let acme = format!(
            "email: a@b.test, storage: {folder}/acme.json, caServer: 'https://127.0.0.1:1/dir', httpChallenge: {{entryPoint: {at}}}"
        );
        format!("certificatesResolvers: {{r: {{acme: {{{acme}}}}}}}")
    };
    let is_proof = async |address: SocketAddr| get(address, "/.well-known/acme-challenge/x").await == 404;
    house.write(&[&web, &admin], &proving("admin"));
    house.upgrade().await;
    assert!(is_proof(admin_at).await && !is_proof(web_at).await, "the server has everything else");
    let told = reload(&house, &[&web], &proving("web")).await;
    let changed = "in force: certificatesResolvers.r.acme.httpChallenge.entryPoint: \"admin\" -> \"web\"";
    assert_eq!((told.code, lines(&told)[0]), (Some(0), changed), "{told:?}");
    assert!(is_proof(web_at).await);
    until_refused(admin_at).await;
    // Who gets certificates waits for an upgrade, and proofs are given until then.
    let told = reload(&house, &[&admin], "").await;
    let waits = |setting: &str| format!("waits for `portcullis upgrade`: {setting}");
    let expected = [
        "in force: entryPoints.admin: not set -> set".to_owned(),
        waits("certificatesResolvers: set -> not set"),
        waits("entryPoints.web: set -> not set"),
    ];
    assert_eq!(lines(&told), expected, "{told:?}");
    assert!(is_proof(web_at).await && !is_proof(admin_at).await);
    house.upgrade().await;
    until_refused(web_at).await;
    assert!(!is_proof(admin_at).await);
}

/// In the usual place there may be the control socket of another gateway, which says nothing of this one.
#[tokio::test]
async fn healthcheck_asks_the_process_that_runs_with_its_file_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let [own, nobody] = [free(), free()];
    let blocker = TcpListener::bind(free()).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, address: SocketAddr| {
        let log = path("process.log");
        let text = format!(
            "entryPoints: {{web: {{address: '{address}'}}}}\nping: {{entryPoint: web}}\nlog: {{filePath: {log}}}\n"
        );
        fs::write(path(name), text).unwrap();
    };
    write("one.yaml", own);
    write("two.yaml", nobody);
    let (one, two, directory) = (path("one.yaml"), path("two.yaml"), folder.path().display().to_string());
    let health = async |file: &str| {
        let tool = Tool::with(["healthcheck", "--configFile", file]).env("RUNTIME_DIRECTORY", &directory);
        tool.run_beside().await
    };
    let gateway = Gateway::bare(&["run", "--configFile", &one], folder).await;
    assert_eq!(health(&one).await.out, format!("OK: http://{own}/ping\n"));
    let told = health(&two).await;
    assert!(told.code == Some(1) && told.err.contains(&format!("http://{nobody}/ping")), "{told:?}");
    // Its own process says where it is if what is written could not be had.
    let text = fs::read_to_string(&one).unwrap();
    fs::write(&one, text.replace(&own.to_string(), &blocker.local_addr().unwrap().to_string())).unwrap();
    let told = Tool::with(["reload"]).env("RUNTIME_DIRECTORY", &directory).run_beside().await;
    assert_eq!(told.code, Some(1), "{told:?}");
    let told = health(&one).await;
    assert_eq!((told.code, told.out), (Some(0), format!("OK: http://{own}/ping\n")));
    drop(gateway);
    assert_eq!(health(&one).await.code, Some(1));
}
