//! What may change at any time: Traefik's "dynamic" configuration. A provider publishes it whole.

use serde::Serialize;

use super::http::Http;

/// What a provider publishes, or all of them together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Routing {
    /// HTTP objects.
    pub http: Http,
}

impl Routing {
    /// Adds what another provider has published. Names are qualified, so that they cannot meet.
    pub fn merge(&mut self, other: Self) {
        let Http { routers, services, middlewares, servers_transports, broken } = other.http;
        let http = &mut self.http;
        http.routers.extend(routers);
        http.services.extend(services);
        http.middlewares.extend(middlewares);
        http.servers_transports.extend(servers_transports);
        http.broken.routers.extend(broken.routers);
        http.broken.services.extend(broken.services);
        http.broken.middlewares.extend(broken.middlewares);
        http.broken.servers_transports.extend(broken.servers_transports);
    }
}
