//! What may change at any time: Traefik's "dynamic" configuration. A provider publishes it whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::check::{BrokenObject, Checked};
use super::deserialize::{IS_MISSING, Read, follows_from, from_node};
use super::http::{Broken, Common, Http, NameList, Remains, Router};
use super::tcp::{self, Tcp};
use super::tls::{self, Tls};
use super::tree::{Node, Sources, Value};
use super::udp::{self, Udp};
use crate::problem::{Problem, Problems};
use crate::units::Name;

/// What a provider publishes, or all of them together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Routing {
    /// HTTP objects.
    pub http: Http,
    /// TCP objects.
    #[serde(skip_serializing_if = "Tcp::is_empty")]
    pub tcp: Tcp,
    /// TLS objects.
    #[serde(skip_serializing_if = "Tls::is_empty")]
    pub tls: Tls,
    /// UDP objects.
    #[serde(skip_serializing_if = "Udp::is_empty")]
    pub udp: Udp,
}

impl Routing {
    /// Adds what another provider has published. Names are qualified, so that those of two providers cannot meet.
    pub fn merge(&mut self, other: Self) {
        let Http { routers, services, middlewares, servers_transports, broken } = other.http;
        let http = &mut self.http;
        add(&mut http.routers, routers);
        add(&mut http.services, services);
        add(&mut http.middlewares, middlewares);
        add(&mut http.servers_transports, servers_transports);
        add(&mut http.broken.routers, broken.routers);
        add(&mut http.broken.services, broken.services);
        add(&mut http.broken.middlewares, broken.middlewares);
        add(&mut http.broken.servers_transports, broken.servers_transports);
        self.tcp.merge(other.tcp);
        self.tls.merge(other.tls);
        let Udp { routers, services, broken } = other.udp;
        add(&mut self.udp.routers, routers);
        add(&mut self.udp.services, services);
        add(&mut self.udp.broken.routers, broken.routers);
        add(&mut self.udp.broken.services, broken.services);
    }

    /// Whether nothing is in it, broken or not.
    pub fn is_empty(&self) -> bool {
        let Http { routers, services, middlewares, servers_transports, broken } = &self.http;
        let nothing = routers.is_empty() && services.is_empty() && middlewares.is_empty();
        let nothing = nothing && self.tcp.is_empty() && self.tls.is_empty() && self.udp.is_empty();
        nothing && servers_transports.is_empty() && *broken == Broken::default()
    }

    /// The same, with every object that `last` has just so taken from there: it is kept in memory once, and whoever compares
    /// the two has only pointers to compare.
    #[must_use]
    pub fn sharing(mut self, last: &Self) -> Self {
        let (http, before) = (&mut self.http, &last.http);
        share(&mut http.routers, &before.routers);
        share(&mut http.services, &before.services);
        share(&mut http.middlewares, &before.middlewares);
        share(&mut http.servers_transports, &before.servers_transports);
        let (tcp, before) = (&mut self.tcp, &last.tcp);
        share(&mut tcp.routers, &before.routers);
        share(&mut tcp.services, &before.services);
        share(&mut tcp.middlewares, &before.middlewares);
        share(&mut tcp.servers_transports, &before.servers_transports);
        share(&mut self.tls.options, &last.tls.options);
        share(&mut self.tls.stores, &last.tls.stores);
        share(&mut self.udp.routers, &last.udp.routers);
        share(&mut self.udp.services, &last.udp.services);
        self
    }

    /// Reads a tree that has been checked. Each object is read alone, so that a bad one takes no other down.
    pub(super) fn read(root: &Node, checked: &Checked, sources: &Sources, provider: &str) -> (Self, Problems) {
        let mut routing = Self::default();
        let mut reader = Reader { sources, provider, names: Names::default(), problems: checked.problems.clone() };
        let nothing = Node::empty(root.span);
        let http = root.get("http").unwrap_or(&nothing);
        let http_of = &mut routing.http;
        let broken = &mut http_of.broken;
        http_of.middlewares = reader.objects(("http", http), "middlewares", &mut broken.middlewares, settings);
        http_of.servers_transports =
            reader.objects(("http", http), "serversTransports", &mut broken.servers_transports, settings);
        http_of.services = reader.objects(("http", http), "services", &mut broken.services, settings);
        http_of.routers = reader.objects(("http", http), "routers", &mut broken.routers, Router::read);
        // A broken router keeps its place as long as its rule can be read: its requests must not fall to a router below it, which
        // may ask for less.
        for (name, remains) in &mut broken.routers {
            http_of.routers.extend(remains.rest.take().map(|router| (name.clone(), router)));
        }
        let tcp = ("tcp", root.get("tcp").unwrap_or(&nothing));
        let tcp_of = &mut routing.tcp;
        let tcp_broken = &mut tcp_of.broken;
        tcp_of.middlewares = reader.objects(tcp, "middlewares", &mut tcp_broken.middlewares, settings);
        tcp_of.servers_transports =
            reader.objects(tcp, "serversTransports", &mut tcp_broken.servers_transports, settings);
        tcp_of.services = reader.objects(tcp, "services", &mut tcp_broken.services, settings);
        tcp_of.routers = reader.objects(tcp, "routers", &mut tcp_broken.routers, settings);
        let tls = root.get("tls").unwrap_or(&nothing);
        let tls_of = &mut routing.tls;
        let (certificates, problems) = tls::certificates(tls, provider, |node| from_node(node, sources));
        tls_of.certificates = certificates;
        reader.problems.extend(problems);
        tls_of.options = reader.objects(("tls", tls), "options", &mut tls_of.broken.options, settings);
        tls_of.stores = reader.objects(("tls", tls), "stores", &mut tls_of.broken.stores, settings);
        let udp = root.get("udp").unwrap_or(&nothing);
        let udp_of = &mut routing.udp;
        udp_of.services = reader.objects(("udp", udp), "services", &mut udp_of.broken.services, settings);
        udp_of.routers = reader.objects(("udp", udp), "routers", &mut udp_of.broken.routers, udp::Router::read);
        for object in &checked.broken {
            let name = Name::qualified(&object.name, provider);
            match &*object.kind {
                "tcp.routers" => {
                    let (mut remains, whole) = reader.remains::<tcp::Router>(object, settings);
                    // It keeps its place as long as its rule can be read, as a broken HTTP router does.
                    if whole && let Some(mut router) = remains.rest.take_if(|router| !router.rule.is_empty()) {
                        if router.tls.is_none() && is_wrong(object, "tls") {
                            Arc::make_mut(&mut router).tls = Some(tcp::RouterTls::default());
                        }
                        tcp_of.routers.insert(name.clone(), router);
                    }
                    tcp_broken.routers.insert(name, remains);
                }
                "tcp.services" => {
                    tcp_broken.services.insert(name, reader.remains(object, settings).0.reading(&object.rest));
                }
                "tcp.middlewares" => {
                    tcp_broken.middlewares.insert(name, reader.remains(object, settings).0.reading(&object.rest));
                }
                "tcp.serversTransports" => {
                    let remains = reader.remains(object, settings).0.reading(&object.rest);
                    tcp_broken.servers_transports.insert(name, remains);
                }
                "tls.options" => {
                    let remains = reader.remains(object, settings).0.reading(&object.rest);
                    tls_of.broken.options.insert(tls::named(name), remains);
                }
                "tls.stores" => {
                    let remains = reader.remains(object, settings).0.reading(&object.rest);
                    tls_of.broken.stores.insert(tls::named(name), remains);
                }
                "http.routers" => {
                    let (mut remains, _) = reader.remains(object, Router::read);
                    // It keeps its place too.
                    if let Some(mut router) = remains.rest.take() {
                        // With a section of which nothing can be read it is one for TLS all the same.
                        if router.common.tls.is_none() && is_wrong(object, "tls") {
                            let common = &mut Arc::make_mut(&mut router).common;
                            Arc::make_mut(common).tls = Some(Box::default());
                        }
                        http_of.routers.insert(name.clone(), router);
                    }
                    broken.routers.insert(name, remains);
                }
                "http.services" => {
                    broken.services.insert(name, reader.remains(object, settings).0.reading(&object.rest));
                }
                "http.middlewares" => {
                    broken.middlewares.insert(name, reader.remains(object, settings).0.reading(&object.rest));
                }
                "http.serversTransports" => {
                    broken.servers_transports.insert(name, reader.remains(object, settings).0.reading(&object.rest));
                }
                "udp.routers" => {
                    let (mut remains, whole) = reader.remains(object, udp::Router::read);
                    // It keeps its entry points: another router must not get datagrams that were meant for it.
                    if whole {
                        udp_of.routers.extend(remains.rest.take().map(|router| (name.clone(), router)));
                    }
                    udp_of.broken.routers.insert(name, remains);
                }
                "udp.services" => {
                    udp_of.broken.services.insert(name, reader.remains(object, settings).0.reading(&object.rest));
                }
                _ => {}
            }
        }
        (routing, reader.problems.into_iter().collect())
    }
}

/// The path of something in an object, relative to that.
fn relative<'p>(path: &'p str, object: &BrokenObject) -> &'p str {
    let BrokenObject { kind, name, .. } = object;
    let below =
        path.strip_prefix(&**kind).and_then(|rest| rest.strip_prefix('.')).and_then(|rest| rest.strip_prefix(&**name));
    below.map_or(path, |below| below.strip_prefix('.').unwrap_or(below))
}

/// Whether something is wrong with, or in, the section `name` of an object.
fn is_wrong(object: &BrokenObject, name: &str) -> bool {
    let below = |problem: &Problem| relative(&problem.path, object).strip_prefix(name).map(str::to_owned);
    object.problems.iter().filter_map(below).any(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Adds the smaller map to the larger one.
fn add<T>(to: &mut BTreeMap<Name, T>, mut other: BTreeMap<Name, T>) {
    if to.len() < other.len() {
        std::mem::swap(to, &mut other);
    }
    to.extend(other);
}

/// Replaces each object that `last` has, too, by that one. Both are walked in the order of the names.
fn share<T: PartialEq>(objects: &mut BTreeMap<Name, Arc<T>>, last: &BTreeMap<Name, Arc<T>>) {
    let mut last = last.iter().peekable();
    let shared = std::mem::take(objects).into_iter().map(|(name, object)| {
        while last.next_if(|(other, _)| **other < name).is_some() {}
        match last.next_if(|(other, _)| **other == name) {
            Some((name, before)) if Arc::ptr_eq(before, &object) || *before == object => (name.clone(), before.clone()),
            Some((name, _)) => (name.clone(), object),
            None => (name, object),
        }
    });
    *objects = shared.collect();
}

struct Reader<'a> {
    sources: &'a Sources,
    provider: &'a str,
    names: Names,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn objects<T>(
        &mut self,
        (section, of): (&str, &Node),
        kind: &str,
        broken: &mut BTreeMap<Name, Remains<T>>,
        read: ReadFn<T>,
    ) -> BTreeMap<Name, Arc<T>> {
        let entries = of.get(kind).map(Node::entries).unwrap_or_default();
        let mut objects = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            let mut name = Name::qualified(&key.name, self.provider);
            if section == "tls" {
                name = tls::named(name);
            } else if kind != "routers" {
                // Routers name the others; nobody names them.
                name = self.names.share(name);
            }
            let Read { object, problems } = read(node, self.sources, &mut self.names);
            match object {
                Some(object) if problems.is_empty() => objects.push((name, Arc::new(object))),
                object => {
                    let told = problems.iter().map(|problem| problem.path.clone());
                    broken.insert(name, Remains::new(object, told).reading(node));
                    self.problems.extend(problems.under(&format!("{section}.{kind}.{}", key.name)));
                }
            }
        }
        objects.into_iter().collect()
    }

    /// What is left of an object whose keys are wrong. Says whether nothing else is wrong with it.
    fn remains<T>(&mut self, object: &BrokenObject, read: ReadFn<T>) -> (Remains<T>, bool) {
        let Read { object: rest, problems } = read(&object.rest, self.sources, &mut self.names);
        let mut told: Vec<_> = object.problems.iter().map(|p| relative(&p.path, object).to_owned()).collect();
        let is_whole = problems.is_empty();
        // What is missing may be what was left out.
        let is_news = |problem: &Problem| {
            problem.message != IS_MISSING && !told.iter().any(|told| follows_from(&problem.path, told))
        };
        let news: Vec<_> = problems.into_iter().filter(is_news).collect();
        told.extend(news.iter().map(|problem| problem.path.clone()));
        let path = format!("{}.{}", object.kind, object.name);
        self.problems.extend(news.into_iter().map(|problem| problem.under(&path)));
        (Remains::new(rest, told.into_iter()), is_whole)
    }
}

/// Reads one object.
type ReadFn<T> = fn(&Node, &Sources, &mut Names) -> Read<T>;

fn settings<T: DeserializeOwned>(node: &Node, sources: &Sources, _: &mut Names) -> Read<T> {
    from_node(node, sources)
}

/// Equal names, lists of names and what else is said alike are kept once: a million routers say the same few things.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: hashbrown::HashSet<Name, ahash::RandomState>,
    lists: hashbrown::HashSet<NameList, ahash::RandomState>,
    commons: hashbrown::HashSet<Arc<Common>, ahash::RandomState>,
    empty: NameList,
}

impl Names {
    pub(super) fn share(&mut self, name: Name) -> Name {
        self.names.get_or_insert(name).clone()
    }

    pub(super) fn read(&mut self, text: &str) -> Name {
        self.names.get_or_insert_with(text, |text| Name::from(text)).clone()
    }

    pub(super) fn share_common(&mut self, common: Common) -> Arc<Common> {
        self.commons.get_or_insert_with(&common, |common| Arc::new(common.clone())).clone()
    }

    pub(super) fn empty_list(&self) -> NameList {
        self.empty.clone()
    }

    pub(super) fn read_list(&mut self, node: &Node) -> NameList {
        let Value::List(items) = &node.value else { return self.empty_list() };
        let names = items.iter().filter_map(|item| match &item.value {
            Value::Str(text) => Some(self.read(text)),
            _ => None,
        });
        let list: Vec<Name> = names.collect();
        self.lists.get_or_insert_with(&list, |list| Arc::new(list.clone())).clone()
    }
}

#[cfg(test)]
mod tests;
