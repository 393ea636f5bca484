//! A UDP router as built.

use std::sync::Arc;

use crate::service::udp::Service;
use crate::units::Name;

/// Where the datagrams of an entry point go.
#[derive(Debug)]
pub struct UdpRoute {
    /// Qualified name of the router.
    pub name: Name,
    /// Qualified name of the service.
    pub service_name: Name,
    /// The service.
    pub service: Arc<Service>,
}
