//! The parts of a line that can be kept or dropped.

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One part of a line that can be kept or dropped. The names are Traefik's, but for `GatewayError`.
        #[allow(clippy::enum_variant_names)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Field { $($(#[$doc])* $name,)* }

        impl Field {
            /// All of them, in the order in which JSON lines have them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Its name as a key of an object.
            pub(super) const fn key(self) -> &'static str {
                match self { $(Self::$name => concat!("\"", stringify!($name), "\":"),)* }
            }
        }
    };
}

fields! {
    /// The peer's address and port.
    ClientAddr,
    /// The client's `X-Forwarded-For` as it came, otherwise the peer's address.
    ClientHost,
    /// The peer's port.
    ClientPort,
    /// Who the client proved to be.
    ClientUsername,
    /// Bytes of body sent to the client.
    DownstreamContentSize,
    /// Status sent to the client.
    DownstreamStatus,
    /// Time from the request head to the end of the response, in nanoseconds.
    Duration,
    /// Why the gateway answered by itself.
    GatewayError,
    /// Size of the body before compression, divided by its size after.
    GzipRatio,
    /// Bytes of body that the server sent.
    OriginContentSize,
    /// Time the server took, in nanoseconds.
    OriginDuration,
    /// Status that the server sent.
    OriginStatus,
    /// Time the gateway took, in nanoseconds.
    Overhead,
    /// Host and port that the client asked for.
    RequestAddr,
    /// Bytes of body that the client sent.
    RequestContentSize,
    /// How many requests this process has had.
    RequestCount,
    /// Host that the client asked for.
    RequestHost,
    /// Method.
    RequestMethod,
    /// Path and query.
    RequestPath,
    /// Port that the client asked for.
    RequestPort,
    /// `HTTP/1.1`.
    RequestProtocol,
    /// `http` or `https`.
    RequestScheme,
    /// Attempts after the first one.
    RetryAttempts,
    /// Router that took the request.
    RouterName,
    /// Host and port of the server.
    ServiceAddr,
    /// Service that took the request.
    ServiceName,
    /// URL of the server.
    ServiceURL,
    /// Start, in local time.
    StartLocal,
    /// Start, in UTC.
    StartUTC,
    /// Cipher suite to the client.
    TLSCipher,
    /// Subject of the client's certificate.
    TLSClientSubject,
    /// TLS version to the client.
    TLSVersion,
}

impl Field {
    /// The field with this name; case does not matter.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|field| field.name().eq_ignore_ascii_case(name))
    }
}
