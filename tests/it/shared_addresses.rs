//! Entry points that share an address, as `reusePort` lets them: each has sockets of its own, and none of these may be forgotten, since
//! the system goes on giving it a part of all clients.

use std::net::SocketAddr;

use crate::entry_points::join;
use crate::harness::house::{House, ask, client, echo, free, get, listening, says_back, texts, websocket};
use crate::harness::peer::until;

fn sharing(name: &str, address: SocketAddr) -> String {
    format!("{name}: {{address: '{address}', reusePort: true}}")
}

fn sharing_udp(name: &str, address: SocketAddr) -> String {
    format!("{name}: {{address: '{address}/udp', reusePort: true}}")
}

/// So many clients that each socket has some of them.
async fn all_are_answered(address: SocketAddr) {
    for _ in 0..50 {
        assert_eq!(get(address, "/x").await, 200);
    }
}

async fn all_datagrams_are_answered(address: SocketAddr) {
    for _ in 0..50 {
        assert!(ask(&client(address).await).await.starts_with("s "));
    }
}

/// Datagrams of all entry points go to this server.
async fn udp() -> String {
    let server = echo("s").await;
    format!(
        "udp: {{routers: {{r: {{service: s}}}}, services: {{s: {{loadBalancer: {{servers: [{{address: '{server}'}}]}}}}}}}}\n"
    )
}

#[tokio::test]
async fn each_goes_over_with_its_socket() {
    let [web_at, at, dns_at] = [free(), free(), free()];
    let web = format!("web: {{address: '{web_at}'}}");
    let [a, b] = [sharing("a", at), sharing("b", at)];
    let datagrams = [sharing_udp("c", dns_at), sharing_udp("d", dns_at)];
    let all = [&*web, &a, &b, &datagrams[0], &datagrams[1]];
    let mut house = House::start(&all, &udp().await).await;
    all_are_answered(at).await;
    all_datagrams_are_answered(dns_at).await;
    let mut tunnel = websocket(at).await;
    let heir = house.upgrade().await;
    assert_eq!(listening(heir), 3);
    all_are_answered(at).await;
    all_datagrams_are_answered(dns_at).await;
    says_back(&mut tunnel, "the old process").await;

    // One is closed by the new process: the old one is told of that one, and nobody waits there.
    house.follow(&[&web, &b, &datagrams[0], &datagrams[1]]).await;
    until(|| listening(house.gateway.pid()) == 2).await;
    all_are_answered(at).await;
    says_back(&mut tunnel, "the old process").await;
    // The other one has the socket that goes on under another name.
    house.follow(&[&web, &sharing("renamed", at), &datagrams[0], &datagrams[1]]).await;
    all_are_answered(at).await;
    says_back(&mut tunnel, "the old process").await;
    house.lose_heir().await;
    all_are_answered(at).await;
    all_datagrams_are_answered(dns_at).await;
    says_back(&mut tunnel, "the old process").await;
    assert_eq!(listening(house.gateway.pid()), 3);

    // One that is gone by an upgrade, and one that has another name since.
    house.write(&[&web, &sharing("renamed", at), &datagrams[1]], "");
    let heir = house.upgrade().await;
    until(|| listening(house.gateway.pid()) == 2).await;
    all_are_answered(at).await;
    assert_eq!(listening(heir), 2);
    says_back(&mut tunnel, "the old process").await;
}

/// Two that are renamed at once have the two sockets that were left, one each.
#[tokio::test]
async fn each_is_renamed_with_its_socket() {
    let [web_at, at, dns_at] = [free(), free(), free()];
    let web = format!("web: {{address: '{web_at}'}}");
    let of = |names: [&str; 4]| {
        let [a, b, c, d] = names;
        [web.clone(), sharing(a, at), sharing(b, at), sharing_udp(c, dns_at), sharing_udp(d, dns_at)]
    };
    let house = House::start(&texts(&of(["a", "b", "c", "d"])), &udp().await).await;
    let mut tunnel = websocket(at).await;
    let session = client(dns_at).await;
    let first = ask(&session).await;
    house.follow(&texts(&of(["e", "f", "g", "h"]))).await;
    assert_eq!(listening(house.gateway.pid()), 3);
    all_are_answered(at).await;
    all_datagrams_are_answered(dns_at).await;
    says_back(&mut tunnel, "still there").await;
    // What follows is in one session again.
    let next = ask(&session).await;
    assert_ne!(next, first);
    for _ in 0..20 {
        assert_eq!(ask(&session).await, next);
    }
}

/// What would have left its address for another, and stays since neither can have what it wants, lets nobody else in.
#[tokio::test]
async fn an_address_that_could_not_be_left_is_not_shared() {
    for (kind, protocol) in [(socket2::Type::STREAM, ""), (socket2::Type::DGRAM, "/udp")] {
        let [web_at, at, taken] = [free(), free(), free()];
        let web = format!("web: {{address: '{web_at}'}}");
        let moves = |address: &dyn std::fmt::Display| format!("moves: {{address: '{address}{protocol}'}}");
        let house = House::start(&[&web, &moves(&at)], "").await;
        assert!(join(at, kind).is_err());
        // One is in the way of the whole port, the other at the new address. For UDP the system asks the newest only whether it shares.
        let beside = SocketAddr::from(([127, 0, 0, 2], at.port()));
        let blockers = [beside, taken].map(|address| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
            socket.bind(&address.into()).unwrap();
            if kind == socket2::Type::STREAM {
                socket.listen(1).unwrap();
            }
            socket
        });
        for options in ["", ", reusePort: true"] {
            let whole = format!("all: {{address: ':{}{protocol}'{options}}}", at.port());
            let told = house.reload(&[&web, &whole, &moves(&taken)]).await;
            assert_eq!(told.code, Some(1), "{told:?}");
            assert!(told.err.contains("entryPoints.all.address") && told.err.contains("entryPoints.moves.address"));
            assert!(join(at, kind).is_err(), "{protocol}{options}");
        }
        drop(blockers);
    }
}
