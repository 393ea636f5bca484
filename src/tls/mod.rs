//! TLS towards clients: who we are, on which terms we speak, and the handshake.

pub mod authorities;
pub mod certificate;
pub mod certificates;
pub mod chain;
pub mod challenges;
mod client_auth;
pub mod client_hello;
pub mod fallback;
pub mod handshake;
#[cfg(feature = "ocsp")]
pub mod ocsp;
pub mod options;
pub mod tickets;

pub use authorities::Authorities;
pub use certificate::Certificate;
pub use certificates::Certificates;
pub use chain::Chain;
pub use challenges::Challenges;
pub use client_hello::ClientHello;
pub use options::Options;
pub use tickets::Tickets;

/// The algorithms that everything here is built with.
pub(crate) fn provider() -> rustls::crypto::CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}
