//! Several files as one configuration: of a name that is written twice, the first counts.

use std::path::Path;
use std::sync::Arc;

use super::found::problem_at;
use crate::config::Routing;
use crate::problem::{Problem, Severity};
use crate::units::Name;

/// Most names written twice that are listed.
const LISTED_LIMIT: usize = 100;

/// Kinds of objects with names, by where they are written.
const KINDS: [&str; 12] = [
    "http.routers",
    "http.services",
    "http.middlewares",
    "http.serversTransports",
    "tcp.routers",
    "tcp.services",
    "tcp.middlewares",
    "tcp.serversTransports",
    "tls.options",
    "tls.stores",
    "udp.routers",
    "udp.services",
];

/// One file of several.
#[derive(Clone, Copy)]
pub(super) struct Part<'f> {
    pub(super) path: &'f Path,
    pub(super) routing: &'f Arc<Routing>,
    /// Whether the file is not there at the moment: it may come back, or come back under another name.
    pub(super) is_gone: bool,
}

/// Joins files in their order.
pub(super) fn join(files: &[Part<'_>]) -> (Arc<Routing>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut unlisted = 0;
    match files {
        [] => return (Arc::default(), problems),
        [only] => return (only.routing.clone(), problems),
        _ => {}
    }
    let mut joined = Routing::default();
    for (index, Part { path, routing, is_gone }) in files.iter().enumerate() {
        let mut added = Routing::clone(routing);
        for kind in KINDS {
            for name in names(routing, kind) {
                if !holds(&joined, kind, name) {
                    continue;
                }
                remove(&mut added, kind, name);
                if *is_gone {
                    continue;
                }
                if problems.len() >= LISTED_LIMIT {
                    unlisted += 1;
                    continue;
                }
                let first = files.iter().take(index).find(|part| holds(part.routing, kind, name));
                let first = first.map_or_else(String::new, |part| part.path.display().to_string());
                let message = format!("is written in {first} too; what is written there counts");
                problems.push(warning(path, &format!("{kind}.{}", name.local()), message));
            }
        }
        joined.merge(added);
    }
    if let (Some(last), true) = (files.last(), unlisted > 0) {
        problems.push(warning(last.path, "http", format!("{unlisted} more names are written in several files")));
    }
    (Arc::new(joined), problems)
}

/// Whether an object is written here, usable or not.
pub(super) fn holds(routing: &Routing, kind: &str, name: &Name) -> bool {
    let Routing { http, tcp, tls, udp } = routing;
    let broken = &http.broken;
    match kind {
        "http.routers" => http.routers.contains_key(name) || broken.routers.contains_key(name),
        "http.services" => http.services.contains_key(name) || broken.services.contains_key(name),
        "http.middlewares" => http.middlewares.contains_key(name) || broken.middlewares.contains_key(name),
        "http.serversTransports" => {
            http.servers_transports.contains_key(name) || broken.servers_transports.contains_key(name)
        }
        "tcp.routers" => tcp.routers.contains_key(name) || tcp.broken.routers.contains_key(name),
        "tcp.services" => tcp.services.contains_key(name) || tcp.broken.services.contains_key(name),
        "tcp.middlewares" => tcp.middlewares.contains_key(name) || tcp.broken.middlewares.contains_key(name),
        "tcp.serversTransports" => {
            tcp.servers_transports.contains_key(name) || tcp.broken.servers_transports.contains_key(name)
        }
        "tls.options" => tls.options.contains_key(name) || tls.broken.options.contains_key(name),
        "tls.stores" => tls.stores.contains_key(name) || tls.broken.stores.contains_key(name),
        "udp.routers" => udp.routers.contains_key(name) || udp.broken.routers.contains_key(name),
        "udp.services" => udp.services.contains_key(name) || udp.broken.services.contains_key(name),
        _ => false,
    }
}

fn names<'r>(routing: &'r Routing, kind: &str) -> Vec<&'r Name> {
    let Routing { http, tcp, tls, udp } = routing;
    let broken = &http.broken;
    match kind {
        "http.routers" => http.routers.keys().chain(broken.routers.keys()).collect(),
        "http.services" => http.services.keys().chain(broken.services.keys()).collect(),
        "http.middlewares" => http.middlewares.keys().chain(broken.middlewares.keys()).collect(),
        "http.serversTransports" => http.servers_transports.keys().chain(broken.servers_transports.keys()).collect(),
        "tcp.routers" => tcp.routers.keys().chain(tcp.broken.routers.keys()).collect(),
        "tcp.services" => tcp.services.keys().chain(tcp.broken.services.keys()).collect(),
        "tcp.middlewares" => tcp.middlewares.keys().chain(tcp.broken.middlewares.keys()).collect(),
        "tcp.serversTransports" => tcp.servers_transports.keys().chain(tcp.broken.servers_transports.keys()).collect(),
        "tls.options" => tls.options.keys().chain(tls.broken.options.keys()).collect(),
        "tls.stores" => tls.stores.keys().chain(tls.broken.stores.keys()).collect(),
        "udp.routers" => udp.routers.keys().chain(udp.broken.routers.keys()).collect(),
        "udp.services" => udp.services.keys().chain(udp.broken.services.keys()).collect(),
        _ => Vec::new(),
    }
}

fn remove(routing: &mut Routing, kind: &str, name: &Name) {
    let Routing { http, tcp, tls, udp } = routing;
    match kind {
        "http.routers" => {
            http.routers.remove(name);
            http.broken.routers.remove(name);
        }
        "http.services" => {
            http.services.remove(name);
            http.broken.services.remove(name);
        }
        "http.middlewares" => {
            http.middlewares.remove(name);
            http.broken.middlewares.remove(name);
        }
        "http.serversTransports" => {
            http.servers_transports.remove(name);
            http.broken.servers_transports.remove(name);
        }
        "tcp.routers" => {
            tcp.routers.remove(name);
            tcp.broken.routers.remove(name);
        }
        "tcp.services" => {
            tcp.services.remove(name);
            tcp.broken.services.remove(name);
        }
        "tcp.middlewares" => {
            tcp.middlewares.remove(name);
            tcp.broken.middlewares.remove(name);
        }
        "tcp.serversTransports" => {
            tcp.servers_transports.remove(name);
            tcp.broken.servers_transports.remove(name);
        }
        "tls.options" => {
            tls.options.remove(name);
            tls.broken.options.remove(name);
        }
        "tls.stores" => {
            tls.stores.remove(name);
            tls.broken.stores.remove(name);
        }
        "udp.routers" => {
            udp.routers.remove(name);
            udp.broken.routers.remove(name);
        }
        "udp.services" => {
            udp.services.remove(name);
            udp.broken.services.remove(name);
        }
        _ => {}
    }
}

fn warning(path: &Path, at: &str, message: String) -> Problem {
    Problem { severity: Severity::Warning, ..problem_at(path, message).under(at) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;
    use crate::config::load;

    fn routing(text: &str) -> Arc<Routing> {
        Arc::new(load::dynamic(text, Format::Yaml, "f", "file").0)
    }

    fn part<'f>(path: &'f str, routing: &'f Arc<Routing>) -> Part<'f> {
        Part { path: Path::new(path), routing, is_gone: false }
    }

    fn router(name: &str, path: &str) -> String {
        format!("http: {{routers: {{{name}: {{rule: 'Path(`{path}`)', service: x}}}}}}")
    }

    #[test]
    fn the_first_of_two_counts_and_the_second_is_said() {
        let (a, b) = (routing(&router("web", "/a")), routing(&router("web", "/b")));
        let c = routing(&router("api", "/c"));
        let gone = routing(&router("api", "/gone"));
        let (joined, problems) = join(&[
            part("a.yaml", &a),
            part("b.yaml", &b),
            part("c.yaml", &c),
            Part { is_gone: true, ..part("d.yaml", &gone) },
        ]);
        let rules = joined.http.routers.values().map(|router| &*router.rule).collect::<Vec<_>>();
        assert_eq!(rules, ["Path(`/c`)", "Path(`/a`)"]);
        let said = problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let expected = "b.yaml: warning: http.routers.web: is written in a.yaml too; what is written there counts";
        assert_eq!(said, [expected]);
    }

    #[test]
    fn a_single_file_is_not_copied() {
        let a = routing(&router("web", "/a"));
        assert!(Arc::ptr_eq(&join(&[part("a.yaml", &a)]).0, &a));
    }
}
