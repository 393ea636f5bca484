//! What holds in the end: types out of a checked tree, entry points that nobody wrote, and what only the whole can tell.

use std::collections::BTreeMap;

use super::address::{Address, Protocol};
use super::check::{BrokenObject, Checked};
use super::deserialize::{IS_MISSING, Read, follows_from, from_node};
use super::entry_points::EntryPoint;
use super::install::{INTERNAL_ENTRY_POINT, Install};
use super::tree::{Key, Node, Sources, Span, Value};
use crate::observe::{access_log, metrics};
use crate::problem::{Place, Problem, Problems, all, refuse};
use crate::units::{Name, Networks};

/// Providers that `providers.precedence` may name.
const PROVIDERS: [&str; 17] = [
    "kubernetesgateway",
    "kubernetescrd",
    "kubernetes",
    "kubernetesingressnginx",
    "swarm",
    "docker",
    "file",
    "redis",
    "knative",
    "consul",
    "consulcatalog",
    "nomad",
    "etcd",
    "ecs",
    "http",
    "zookeeper",
    "rest",
];
/// Idle connections that are kept per server, unless `serversTransport` says otherwise.
const IDLE_CONNECTIONS: i64 = 200;

/// Builds what is read at start from a checked tree. Whatever cannot be used is left out, and is a problem.
pub(super) fn install(mut tree: Node, checked: Checked, sources: &Sources) -> (Install, Problems) {
    let mut reader = Reader { sources, problems: checked.problems, spans: Vec::new() };
    let written = tree.take("entryPoints");
    add_transport(&mut tree);
    let mut install = reader.sections(tree);
    reader.entry_points(&mut install, written, checked.broken);
    reader.addresses(&mut install);
    reader.add_entry_points(&mut install);
    reader.redirections(&mut install);
    reader.validate(&mut install);
    (install, reader.problems.into_iter().collect())
}

struct Reader<'a> {
    sources: &'a Sources,
    problems: Vec<Problem>,
    /// Where things stand that are looked at again after they were read.
    spans: Vec<(String, Span)>,
}

impl Reader<'_> {
    /// Everything but the entry points. Each root section is tried alone, so that a bad one takes no other down.
    fn sections(&mut self, tree: Node) -> Install {
        let Value::Map(entries) = tree.value else { return Install::default() };
        let mut good = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            self.remember(&key.name, &node);
            let alone = Node::new(Value::Map(vec![(key, node)]), tree.span);
            match (from_node::<Install>(&alone, self.sources).whole(), alone.value) {
                (Ok(_), Value::Map(entry)) => good.extend(entry),
                (Err(problems), _) => self.problems.extend(problems),
                (Ok(_), _) => {}
            }
        }
        from_node(&Node::new(Value::Map(good), tree.span), self.sources).object.unwrap_or_default()
    }

    fn entry_points(&mut self, install: &mut Install, written: Option<Node>, broken: Vec<BrokenObject>) {
        let broken = broken.into_iter().filter(|object| object.kind == "entryPoints");
        for BrokenObject { name, mut problems, rest, .. } in broken {
            // What is left of it may hold a mistake as well, which is better told now than after the first one is mended.
            let path = format!("entryPoints.{name}");
            self.remember(&path, &rest);
            let Read { object, problems: mut found } = from_node::<EntryPoint>(&rest, self.sources);
            found.extend(object.and_then(|entry_point| usable(entry_point).err()).unwrap_or_default());
            let found = found.under(&path).into_iter().filter(|problem| {
                let follows = problems.iter().any(|known: &Problem| follows_from(&problem.path, &known.path));
                problem.message != IS_MISSING && !follows
            });
            let found: Vec<_> = found.map(|problem| self.placed(problem)).collect();
            self.problems.extend(found.iter().cloned());
            problems = problems.into_iter().chain(found).collect();
            install.broken_entry_points.insert(Name::from(&*name), problems);
        }
        let Some(Node { value: Value::Map(entries), .. }) = written else { return };
        for (Key { name, .. }, node) in entries {
            let path = format!("entryPoints.{name}");
            self.remember(&path, &node);
            let Read { object, problems: mut found } = from_node::<EntryPoint>(&node, self.sources);
            let usable = object.and_then(|entry_point| found.keep(usable(entry_point)));
            match usable.filter(|_| found.is_empty()) {
                Some(entry_point) => drop(install.entry_points.insert(Name::from(&*name), entry_point)),
                None => self.refuse(install, &name, found),
            }
        }
    }

    /// Notes what is wrong with an entry point, which stays closed.
    fn refuse(&mut self, install: &mut Install, name: &str, found: Problems) {
        let found = found.under(&format!("entryPoints.{name}"));
        let found: Box<[_]> = found.into_iter().map(|problem| self.placed(problem)).collect();
        self.problems.extend(found.iter().cloned());
        install.broken_entry_points.insert(Name::from(name), found);
    }

    /// Two that listen on one address: the system would refuse the second.
    fn addresses(&mut self, install: &mut Install) {
        let mut first = BTreeMap::new();
        let mut taken = Vec::new();
        for (name, EntryPoint { address, reuse_port, .. }) in &install.entry_points {
            let other = first.entry((&address.host, address.port, address.protocol)).or_insert((name, *reuse_port));
            if address.port != 0 && other.0 != name && !(*reuse_port && other.1) {
                taken.push((name.clone(), format!("entry point `{}` listens on {address} already", other.0.as_str())));
            }
        }
        for (name, message) in taken {
            install.entry_points.remove(&name);
            self.refuse(install, name.as_str(), Problem::at("address", message).into());
        }
    }

    /// `http` on port 80 if nobody wrote an entry point, and `traefik` on port 8080 if something is served there.
    fn add_entry_points(&mut self, install: &mut Install) {
        if install.entry_points.is_empty() && install.broken_entry_points.is_empty() {
            add_unwritten(install, "http", 80);
        }
        let is_needed = install.served_at().contains(INTERNAL_ENTRY_POINT);
        let is_written = |known: &Install| {
            known.entry_points.contains_key(INTERNAL_ENTRY_POINT)
                || known.broken_entry_points.contains_key(INTERNAL_ENTRY_POINT)
        };
        if is_needed && !is_written(install) {
            add_unwritten(install, INTERNAL_ENTRY_POINT, 8080);
        }
    }

    /// Finds the port that each redirection leads to. One that leads nowhere closes its entry point.
    fn redirections(&mut self, install: &mut Install) {
        let failed = install.find_redirections();
        for (name, message) in failed {
            let path = format!("entryPoints.{name}.http.redirections.entryPoint.to");
            let problem = self.problem(&path, message).with_help("the entry point stays closed");
            self.problems.push(problem.clone());
            install.entry_points.remove(&name);
            install.broken_entry_points.insert(name, Box::new([problem]));
        }
    }

    /// What only the whole can tell.
    fn validate(&mut self, install: &mut Install) {
        let declared = |name: &str| {
            let is_tcp = |entry_point: &EntryPoint| entry_point.address.protocol == Protocol::Tcp;
            install.entry_points.get(name).is_some_and(is_tcp) || install.broken_entry_points.contains_key(name)
        };
        let mut wrong = Vec::new();
        let mut refused = Problems::new();
        for (name, resolver) in &install.certificates_resolvers {
            let path = format!("certificatesResolvers.{name}");
            let found = match &resolver.acme {
                Some(acme) => acme.problems(&declared).under("acme"),
                None => Problem::at("", "names nobody who issues certificates").with_help("write `acme`").into(),
            };
            refused.extend(found.under(&path));
        }
        if let Some(ocsp) = &install.ocsp {
            refused.extend(ocsp.problems().under("ocsp"));
        }
        if let Some(ping) = &install.ping
            && !ping.manual_routing
            && !declared(&ping.entry_point)
        {
            wrong.push(("ping.entryPoint", format!("there is no entry point `{}`", ping.entry_point)));
        }
        if let Some(prometheus) = install.metrics.as_ref().and_then(|metrics| metrics.prometheus.as_ref())
            && !prometheus.manual_routing
            && !declared(&prometheus.entry_point)
        {
            let message = format!("there is no entry point `{}`", prometheus.entry_point);
            wrong.push(("metrics.prometheus.entryPoint", message));
        }
        if let Some(api) = &install.api
            && !is_base_path(&api.base_path)
        {
            let message = format!("`{}` is not a path of letters, digits and `/_.:~-`", api.base_path);
            wrong.push(("api.basePath", message));
        }
        for provider in &install.providers.precedence {
            if !PROVIDERS.iter().any(|known| known.eq_ignore_ascii_case(provider)) {
                wrong.push(("providers.precedence", format!("there is no provider `{provider}`")));
            }
        }
        if install.threads == Some(0) {
            wrong.push(("threads", "expected at least 1".to_owned()));
        }
        for problem in refused {
            let problem = self.placed(problem);
            self.problems.push(problem);
        }
        for (path, message) in wrong {
            let problem = self.problem(path, message);
            self.problems.push(problem);
            restore_default(install, path);
        }
        let parts = [
            ("log", install.log.check()),
            ("accessLog", install.access_log.as_ref().map(access_log::Settings::check).unwrap_or_default()),
            ("metrics", install.metrics.as_ref().map(metrics::Settings::check).unwrap_or_default()),
        ];
        for problem in parts.into_iter().flat_map(|(part, found)| found.into_iter().map(|p| p.under(part))) {
            restore_default(install, &problem.path);
            let place = self.place(&problem.path);
            self.problems.push(problem.placed(place));
        }
    }

    /// Keeps in mind where each value below `path` stands.
    fn remember(&mut self, path: &str, node: &Node) {
        self.spans.push((path.to_owned(), node.span));
        for (key, node) in node.entries() {
            self.remember(&format!("{path}.{}", key.name), node);
        }
        if let Value::List(items) = &node.value {
            items.iter().enumerate().for_each(|(index, item)| self.remember(&format!("{path}[{index}]"), item));
        }
    }

    fn problem(&self, path: &str, message: String) -> Problem {
        Problem::at(path, message).placed(self.place(path))
    }

    fn placed(&self, problem: Problem) -> Problem {
        let place = self.place(&problem.path);
        problem.placed(place)
    }

    /// Where `path` stands, or else the nearest section above it.
    fn place(&self, path: &str) -> Option<Place> {
        let found = self.spans.iter().find(|(known, _)| known == path);
        match (found, path.rfind(['.', '['])) {
            (Some((_, span)), _) => self.sources.place(*span),
            (None, Some(end)) => self.place(path.get(..end)?),
            (None, None) => None,
        }
    }
}

fn add_unwritten(install: &mut Install, name: &str, port: u16) {
    install.entry_points.insert(name.into(), EntryPoint::listening(Address::any(port)));
    install.unwritten_entry_points.insert(name.into());
}

/// What is wrong is left out, as everywhere: the default holds.
fn restore_default(install: &mut Install, path: &str) {
    match path {
        "api.basePath" => {
            if let Some(api) = &mut install.api {
                api.base_path = "/".into();
            }
        }
        "threads" => install.threads = None,
        "providers.precedence" => {
            let is_known = |name: &str| PROVIDERS.iter().any(|known| known.eq_ignore_ascii_case(name));
            install.providers.precedence.retain(|provider| is_known(provider));
        }
        path if path.starts_with("metrics.prometheus.") => {
            if let Some(prometheus) = install.metrics.as_mut().and_then(|metrics| metrics.prometheus.as_mut()) {
                match path.strip_prefix("metrics.prometheus.headerLabels.") {
                    Some(label) => drop(prometheus.header_labels.remove(label)),
                    None => prometheus.buckets = metrics::Prometheus::default().buckets,
                }
            }
        }
        _ => {}
    }
}

/// The transport that nobody wrote keeps more idle connections than one that somebody did.
fn add_transport(tree: &mut Node) {
    let Value::Map(entries) = &mut tree.value else { return };
    let key = |name: &str| Key { name: name.into(), span: Span::default() };
    if !entries.iter().any(|(key, _)| &*key.name == "serversTransport") {
        entries.push((key("serversTransport"), Node::empty(Span::default())));
    }
    for (name, node) in entries {
        if let ("serversTransport", Value::Map(entries)) = (&*name.name, &mut node.value)
            && !entries.iter().any(|(key, _)| &*key.name == "maxIdleConnsPerHost")
        {
            entries.push((key("maxIdleConnsPerHost"), Node::new(Value::Int(IDLE_CONNECTIONS), node.span)));
        }
    }
}

/// What keeps an entry point from being opened, apart from whether its address is free.
fn usable(entry_point: EntryPoint) -> Result<EntryPoint, Problems> {
    let is_udp = entry_point.address.protocol == Protocol::Udp;
    let timeout = refuse(is_udp && entry_point.udp.timeout.positive().is_none(), || {
        Problem::at("udp.timeout", "expected more than zero: a session that never ends is never released")
            .with_help("the entry point stays closed")
    });
    let forwarders = check_networks("forwardedHeaders.trustedIPs", &entry_point.forwarded_headers.trusted_ips);
    let proxies = entry_point.proxy_protocol.as_ref().map_or(&[][..], |proxy| &proxy.trusted_ips);
    all((timeout, forwarders, check_networks("proxyProtocol.trustedIPs", proxies))).map(|_| entry_point)
}

fn check_networks(path: &str, list: &[String]) -> Result<(), Problems> {
    let problem = |(index, message)| Problem::at(format!("{path}[{index}]"), message);
    Networks::parse(list).map(drop).map_err(|wrong| wrong.into_iter().map(problem).collect())
}

fn is_base_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_.:~-".contains(&byte))
}
