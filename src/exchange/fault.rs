//! Every failure that the gateway answers by itself, with its stable code.
//!
//! The code stands in the `X-Portcullis-Error` response header, in the access log and in a metric, so that a gateway's own
//! error is never mistaken for a server's. `docs/errors.md` is the same table for people.

use http::StatusCode;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $text:literal;)*) => {
        /// A failure that the gateway answers by itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its stable code.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The status that the client sees.
            pub fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => const { match StatusCode::from_u16($status) { Ok(status) => status, Err(_) => panic!("not a status") } },)*
                }
            }

            /// The plain-text body, in Traefik's words where Traefik has some.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

faults! {
    /// No router's rule matches the request.
    NoRouter = "no-router", 404, "404 page not found\n";
    /// The router matches but one of its parts is broken; see the problems in the API or `check`.
    RouterDisabled = "router-disabled", 503, "Service Unavailable";
    /// The service has no server, or none is up.
    NoServer = "no-server", 503, "no available server\n";
    /// The configuration has not been loaded yet.
    NotReady = "not-ready", 503, "Service Unavailable";
    /// The connection to the server was refused or could not be made.
    ConnectFailed = "connect-failed", 502, "Bad Gateway";
    /// The connection to the server could not be made in time.
    ConnectTimeout = "connect-timeout", 504, "Gateway Timeout";
    /// TLS to the server failed: certificate, name or protocol.
    ServerTls = "server-tls", 502, "Bad Gateway";
    /// The server closed or reset the connection before it answered.
    ServerClosed = "server-closed", 502, "Bad Gateway";
    /// The server's answer is not valid HTTP.
    ServerProtocol = "server-protocol", 502, "Bad Gateway";
    /// The server did not answer in time.
    ServerTimeout = "server-timeout", 504, "Gateway Timeout";
    /// The client went away before the answer.
    ClientGone = "client-gone", 499, "Client Closed Request";
    /// The client did not send its request body in time.
    BodyTimeout = "body-timeout", 408, "Request Timeout";
    /// The client did not send its request head in time.
    HeadTimeout = "head-timeout", 408, "Request Timeout";
    /// The request is not valid HTTP, or is framed in a way that invites smuggling.
    BadRequest = "bad-request", 400, "Bad Request";
    /// The path holds an encoded character that the entry point or a middleware denies.
    EncodedCharacter = "encoded-character", 400, "Bad Request";
    /// The path, rewritten by a middleware, would mean something else to the server.
    PathRewrite = "path-rewrite", 400, "Bad Request";
    /// The request head is too large, or has too many fields.
    HeadTooLarge = "head-too-large", 431, "Request Header Fields Too Large";
    /// The request target is too long.
    TargetTooLong = "target-too-long", 414, "URI Too Long";
    /// The request body is too large.
    BodyTooLarge = "body-too-large", 413, "Request Entity Too Large";
    /// `CONNECT`, which a reverse proxy does not do.
    MethodRefused = "method-refused", 405, "Method Not Allowed";
    /// A transfer coding other than `chunked`.
    TransferCoding = "transfer-coding", 501, "Not Implemented";
    /// The host asks for other TLS options than the server name with which the connection was made (RFC 9110 §15.5.20).
    Misdirected = "misdirected", 421, "Misdirected Request";
    /// An HTTP version other than 1.0, 1.1 or 2.
    HttpVersion = "http-version", 505, "HTTP Version Not Supported";
    /// An expectation other than `100-continue`.
    Expectation = "expectation", 417, "Expectation Failed";
    /// The entry point has as many connections as it may.
    TooManyConnections = "too-many-connections", 503, "Service Unavailable";
    /// A rate limit is used up.
    RateLimited = "rate-limited", 429, "Too Many Requests";
    /// As many requests are in flight as may be.
    TooManyInFlight = "too-many-in-flight", 429, "Too Many Requests";
    /// The client's address is not on the list.
    AddressRefused = "address-refused", 403, "Forbidden";
    /// Credentials are missing or wrong.
    Unauthorized = "unauthorized", 401, "401 Unauthorized\n";
    /// Too many passwords are being checked at the same time.
    AuthenticationBusy = "authentication-busy", 503, "Service Unavailable";
    /// The host is not one that the `headers` middleware allows.
    HostRefused = "host-refused", 500, "Bad Host";
    /// Something in the gateway failed.
    Internal = "internal", 500, "Internal Server Error";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_statuses_valid() {
        let mut codes: Vec<_> = Fault::ALL.iter().map(|fault| (fault.code(), fault.status())).collect();
        let all = codes.len();
        codes.sort_unstable_by_key(|(code, _)| *code);
        codes.dedup_by_key(|(code, _)| *code);
        assert_eq!(codes.len(), all);
    }
}
