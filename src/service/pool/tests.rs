use std::collections::HashMap;
use std::time::Duration as Span;

use super::super::tests::{build, exchange, exchange_of, pool, request};
use super::*;

const THREE: &str =
    r#""servers": [{"url": "http://10.0.0.1"}, {"url": "http://10.0.0.2", "weight": 0}, {"url": "http://10.0.0.3"}]"#;

fn three(more: &str) -> Arc<ServerPool> {
    pool(&format!("{{{THREE}{more}}}"))
}

/// The last digit of the server's address, or 0.
fn picked(pool: &Arc<ServerPool>, exchange: &mut Exchange, cookie: &str, tried: &[u64]) -> u32 {
    let request = if cookie.is_empty() { request(&[]) } else { request(&[("cookie", cookie)]) };
    let url = pool.select(&request, exchange, tried).map(|selection| selection.server.url().to_owned());
    url.ok().and_then(|url| url.chars().last()).and_then(|last| last.to_digit(10)).unwrap_or(0)
}

fn failed(fault: Fault) -> AttemptOutcome {
    AttemptOutcome { status: None, first_byte: None, failure: Some(fault) }
}

#[test]
fn drained_servers_get_none_and_tried_ones_the_rest() {
    let pool = three("");
    let ids: Vec<_> = pool.members().iter().map(|member| member.server.id()).collect();
    let count = |tried: &[u64]| {
        let mut counts = HashMap::new();
        (0..100).for_each(|_| *counts.entry(picked(&pool, &mut exchange(), "", tried)).or_insert(0) += 1);
        counts
    };
    assert_eq!(count(&[]), HashMap::from([(1, 50), (3, 50)]));
    assert_eq!(count(&[ids[0]]), HashMap::from([(3, 100)]));
    assert_eq!(count(&ids), HashMap::from([(1, 50), (3, 50)]), "all tried: as if none had been");
    pool.members()[2].server.health.set(false);
    assert_eq!(count(&[ids[0]]), HashMap::from([(1, 100)]), "the only one that is up");
    pool.members()[0].server.health.set(false);
    assert_eq!(count(&[]), HashMap::from([(0, 100)]));
    assert!(!pool.is_up(Instant::now()));
    assert_eq!(pool.select(&request(&[]), &mut exchange(), &[]).map(|_| ()), Err(Fault::NoServer));
}

#[test]
fn attempts_count_as_in_flight_while_they_last() {
    let pool = pool(r#"{"servers": [{"url": "http://10.0.0.1"}]}"#);
    let server = pool.members()[0].server.clone();
    let first = pool.select(&request(&[]), &mut exchange(), &[]).unwrap();
    let second = pool.select(&request(&[]), &mut exchange(), &[]).unwrap();
    assert_eq!(server.in_flight(), 2);
    drop(first);
    assert_eq!(server.in_flight(), 1);
    drop(second);
    assert_eq!(server.in_flight(), 0);
}

#[test]
fn clients_stick_to_their_server() {
    let pool = three(r#", "sticky": {"cookie": {"name": "s", "httpOnly": true}}"#);
    let mut first = exchange();
    let server = picked(&pool, &mut first, "", &[]);
    let set = first.cookies[0].to_str().unwrap();
    assert!(set.ends_with("; Path=/; HttpOnly"), "{set}");
    let cookie = set.split(';').next().unwrap();
    for _ in 0..10 {
        let mut again = exchange();
        assert_eq!(picked(&pool, &mut again, cookie, &[]), server);
        assert!(again.cookies.is_empty());
    }
    let at = if server == 1 { 0 } else { 2 };
    let other = 4 - server;

    let tried = [pool.members()[at].server.id()];
    let mut retry = exchange();
    assert_eq!(picked(&pool, &mut retry, cookie, &tried), other);
    assert!(retry.cookies.is_empty(), "one failed attempt does not move the client");

    pool.members()[at].server.health.set(false);
    let mut moved = exchange();
    assert_eq!(picked(&pool, &mut moved, cookie, &[]), other);
    assert_eq!(moved.cookies.len(), 1, "a lost server does");
}

#[test]
fn drained_servers_keep_their_clients_and_old_cookies_are_renewed() {
    let pool = three(r#", "sticky": {"cookie": {"name": "s"}}"#);
    let mut exchange = exchange();
    assert_eq!(picked(&pool, &mut exchange, "s=http://10.0.0.2", &[]), 2);
    let renewed = exchange.cookies[0].to_str().unwrap();
    assert!(renewed.starts_with("s=") && !renewed.contains("http"), "{renewed}");
}

#[test]
fn a_cookie_is_set_for_the_server_that_answers_after_retries() {
    let pool = three(r#", "sticky": {"cookie": {"name": "s"}}"#);
    let mut exchange = exchange();
    let first = picked(&pool, &mut exchange, "", &[]);
    let before = exchange.cookies[0].clone();
    let id = pool.members()[first as usize - 1].server.id();
    assert_ne!(picked(&pool, &mut exchange, "", &[id]), first);
    assert_eq!(exchange.cookies.len(), 1);
    assert_ne!(exchange.cookies[0], before);
}

#[test]
fn hashing_strategies_tell_clients_apart() {
    for (strategy, tell) in
        [("hrw", ""), ("ketama", ""), ("ketama", r#", "hashKey": {"source": "header", "name": "X-A"}"#)]
    {
        let pool = three(&format!(r#", "strategy": "{strategy}"{tell}"#));
        let servers: Vec<_> = (0..100).map(|client| picked(&pool, &mut exchange_of(client), "", &[])).collect();
        let again: Vec<_> = (0..100).map(|client| picked(&pool, &mut exchange_of(client), "", &[])).collect();
        assert_eq!(servers, again);
        assert!(servers.contains(&1) && servers.contains(&3), "{strategy}");
    }
}

#[test]
fn servers_that_stay_are_the_same_after_a_reload() {
    let old = pool(r#"{"servers": [{"url": "http://10.0.0.1"}, {"url": "http://10.0.0.2", "preservePath": true}]}"#);
    old.members()[0].server.health.set(false);
    let selection = old.members()[1].server.clone();
    let new = r#"{"servers": [{"url": "http://10.0.0.3"}, {"url": "http://10.0.0.1", "weight": 5}, {"url": "http://10.0.0.1"}]}"#;
    let new = build(new, Some(&old)).unwrap();
    assert!(Arc::ptr_eq(&new.members()[1].server, &old.members()[0].server));
    assert_eq!(new.members()[1].weight, 5);
    assert!(!new.members()[1].server.is_up(Instant::now()), "its health is known already");
    assert!(!Arc::ptr_eq(&new.members()[2].server, &old.members()[0].server), "one server, one successor");
    assert!(new.members().iter().all(|member| !Arc::ptr_eq(&member.server, &selection)));
}

#[test]
fn another_transport_makes_another_server() {
    let settings = serde_json::from_str::<Settings>(r#"{"servers": [{"url": "http://10.0.0.1"}]}"#).unwrap();
    let old = build(r#"{"servers": [{"url": "http://10.0.0.1"}]}"#, None).unwrap();
    let transport = serde_json::from_str(r#"{"serverName": "x"}"#).unwrap();
    let transport = Transport::build(&transport).unwrap();
    let new = ServerPool::build(&Name::from("web@file"), &settings, transport, old.meters.clone(), Some(&old)).unwrap();
    assert!(!Arc::ptr_eq(&new.members()[0].server, &old.members()[0].server));
}

#[test]
fn servers_that_fail_too_often_are_left_alone() {
    let json = r#"{"servers": [{"url": "http://10.0.0.1"}, {"url": "http://10.0.0.2"}],
        "passiveHealthCheck": {"failureWindow": "10s", "maxFailedAttempts": 2}}"#;
    let pool = pool(json);
    let start = Instant::now();
    let server = &pool.members()[0].server;
    let after = |seconds: u64| start + Span::from_secs(seconds);
    pool.learn(0, &failed(Fault::ClientGone), start);
    pool.learn(0, &failed(Fault::ConnectFailed), start);
    assert!(server.is_up(start));
    pool.learn(0, &AttemptOutcome { status: Some(502), first_byte: None, failure: None }, after(1));
    assert!(!server.is_up(after(2)) && server.last_error().is_some());
    assert!(build(json, Some(&pool)).unwrap().members()[0].server.left_alone_for(after(2)).is_some());
    assert!(server.is_up(after(12)), "its time is over");
    pool.learn(0, &failed(Fault::ServerTimeout), after(12));
    assert!(server.is_up(after(13)), "old failures are forgiven");
}

#[test]
fn only_failures_in_a_row_take_a_server_out() {
    let json = r#"{"servers": [{"url": "http://10.0.0.1"}], "passiveHealthCheck": {"maxFailedAttempts": 3}}"#;
    let (pool, start) = (pool(json), Instant::now());
    let outcome = |status: u16| AttemptOutcome { status: Some(status), first_byte: None, failure: None };
    let learn = |statuses: &[u16]| statuses.iter().for_each(|status| pool.learn(0, &outcome(*status), start));
    for _ in 0..5 {
        learn(&[500, 503, 200]);
        learn(&[500, 502, 404]);
    }
    assert!(pool.members()[0].server.is_up(start), "a server that fails now and then is not a broken one");
    learn(&[500, 500]);
    pool.learn(0, &failed(Fault::ClientGone), start);
    assert!(pool.members()[0].server.is_up(start));
    learn(&[500]);
    assert!(!pool.members()[0].server.is_up(start), "a client that leaves says nothing of the server");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_back_is_told_however_many_failed_with_it() {
    let json = r#"{"servers": [{"url": "http://10.0.0.1"}], "passiveHealthCheck": {}}"#;
    let pool = pool(json);
    let server = &pool.members()[0].server;
    pool.start_probes(&Handle::current());
    for _ in 0..3 {
        pool.learn(0, &failed(Fault::ConnectFailed), probe::now());
        tokio::time::sleep(Span::from_millis(300)).await;
    }
    assert!(!server.is_up(probe::now()) && server.last_error().is_some());
    tokio::time::sleep(Span::from_secs(11)).await;
    assert!(server.is_up(probe::now()));
    assert_eq!(server.last_error(), None, "what is told of it was taken back, too");
}

#[test]
fn an_address_that_refuses_is_passed_over() {
    let pool = pool(r#"{"servers": [{"url": "http://app:81"}]}"#);
    assert_eq!(pool.select(&request(&[]), &mut exchange(), &[]).map(|_| ()), Err(Fault::NoServer));
    pool.members()[0].server.set_addresses(vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]);
    let attempt = || pool.select(&request(&[]), &mut exchange(), &[]).unwrap();
    let address = |selection: &Selection| selection.peer(false).unwrap()._address.to_string();
    let first = attempt();
    assert_eq!(address(&first), "10.0.0.1:81");
    first.finish(&failed(Fault::ConnectFailed), Instant::now());
    assert!((0..4).all(|_| address(&attempt()) == "10.0.0.2:81"));
}

#[test]
fn problems_say_where() {
    for (json, path) in [
        (r#"{"servers": [{"url": "http://a"}, {"url": "ftp://a"}]}"#, "servers[1].url"),
        (r#"{"servers": [{"url": "http://a", "weight": 2000000}]}"#, "servers[0].weight"),
        (r#"{"healthCheck": {"rise": 0}}"#, "healthCheck.rise"),
        (r#"{"passiveHealthCheck": {"maxFailedAttempts": 0}}"#, "passiveHealthCheck.maxFailedAttempts"),
        (r#"{"sticky": {"cookie": {"sameSite": "x"}}, "servers": [{"url": "http://a"}]}"#, "sticky.cookie.sameSite"),
        (r#"{"hashKey": {"source": "clientIP"}}"#, "hashKey"),
        (r#"{"strategy": "hrw", "hashKey": {"source": "cookie"}}"#, "hashKey.name"),
    ] {
        assert_eq!(build(json, None).map(|_| ()).unwrap_err().only().path, path, "{json}");
    }
    assert!(serde_json::from_str::<Settings>(r#"{"strategy": "fastest"}"#).is_err());
}

#[test]
fn settings_come_back_as_they_were_written() {
    let written = r#"{"servers": [{"url": "http://a", "weight": -1}], "strategy": "leasttime", "sticky": {"cookie": {}},
        "healthCheck": {"path": "/x", "interval": 10, "status": 204}, "passiveHealthCheck": {}, "serversTransport": "t@file",
        "responseForwarding": {"flushInterval": "-1"}, "passHostHeader": false}"#;
    let settings: Settings = serde_json::from_str(written).unwrap();
    let text = serde_json::to_string(&settings).unwrap();
    assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
    let pool = build(written, None).unwrap();
    assert!(!pool.pass_host_header() && pool.flush_interval().is_negative());
    assert_eq!(pool.members()[0].weight, 0);
}
