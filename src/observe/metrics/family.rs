//! Every metric family, named once. Names and labels of the first part are Traefik's, so that its dashboards go on working.

use prometheus::proto::MetricType;

/// A metric family.
#[derive(Clone, Copy, Debug)]
pub(in crate::observe) struct Family {
    pub(in crate::observe) name: &'static str,
    pub(in crate::observe) help: &'static str,
    pub(in crate::observe) kind: MetricType,
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: MetricType::COUNTER }
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: MetricType::GAUGE }
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: MetricType::HISTOGRAM }
}

/// The five families that entry points, routers and services have alike.
#[derive(Clone, Copy, Debug)]
pub(in crate::observe) struct Requests {
    pub(in crate::observe) total: Family,
    pub(in crate::observe) tls: Family,
    pub(in crate::observe) duration: Family,
    pub(in crate::observe) request_bytes: Family,
    pub(in crate::observe) response_bytes: Family,
}

macro_rules! requests {
    ($name:literal, $what:literal) => {
        Requests {
            total: counter(concat!("traefik_", $name, "_requests_total"), concat!("Requests, per ", $what, ".")),
            tls: counter(
                concat!("traefik_", $name, "_requests_tls_total"),
                concat!("Requests over TLS, per ", $what, "."),
            ),
            duration: histogram(
                concat!("traefik_", $name, "_request_duration_seconds"),
                concat!("Time from the request head to the end of the response, per ", $what, "."),
            ),
            request_bytes: counter(
                concat!("traefik_", $name, "_requests_bytes_total"),
                concat!("Bytes of request bodies, per ", $what, "."),
            ),
            response_bytes: counter(
                concat!("traefik_", $name, "_responses_bytes_total"),
                concat!("Bytes of response bodies, per ", $what, "."),
            ),
        }
    };
}

pub(in crate::observe) const ENTRY_POINT: Requests = requests!("entrypoint", "entry point");
pub(in crate::observe) const ROUTER: Requests = requests!("router", "router");
pub(in crate::observe) const SERVICE: Requests = requests!("service", "service");

/// The families that entry points for UDP and UDP services have alike.
#[derive(Clone, Copy, Debug)]
pub(in crate::observe) struct Datagrams {
    pub(in crate::observe) sessions: Family,
    pub(in crate::observe) open: Family,
    pub(in crate::observe) total: Family,
    pub(in crate::observe) bytes: Family,
    pub(in crate::observe) ended: Family,
    pub(in crate::observe) seconds: Family,
    pub(in crate::observe) dropped: Family,
}

macro_rules! datagrams {
    ($name:literal, $what:literal) => {
        Datagrams {
            sessions: counter(
                concat!("portcullis_", $name, "_udp_sessions_total"),
                concat!("UDP sessions that were opened, per ", $what, "."),
            ),
            open: gauge(
                concat!("portcullis_", $name, "_udp_open_sessions"),
                concat!("UDP sessions that are open, per ", $what, "."),
            ),
            total: counter(
                concat!("portcullis_", $name, "_udp_datagrams_total"),
                concat!("Datagrams received from clients and sent to clients, per ", $what, "."),
            ),
            bytes: counter(
                concat!("portcullis_", $name, "_udp_bytes_total"),
                concat!("Bytes of datagrams received from clients and sent to clients, per ", $what, "."),
            ),
            ended: counter(
                concat!("portcullis_", $name, "_udp_ended_sessions_total"),
                concat!("UDP sessions that have ended, per ", $what, " and ending."),
            ),
            seconds: counter(
                concat!("portcullis_", $name, "_udp_session_seconds_total"),
                concat!("How long UDP sessions lasted that have ended, in seconds, per ", $what, "."),
            ),
            dropped: counter(
                concat!("portcullis_", $name, "_udp_dropped_datagrams_total"),
                concat!("Datagrams that went nowhere, per ", $what, " and reason."),
            ),
        }
    };
}

pub(in crate::observe) const UDP_ENTRY_POINT: Datagrams = datagrams!("entrypoint", "entry point");
pub(in crate::observe) const UDP_SERVICE: Datagrams = datagrams!("service", "service");
pub(in crate::observe) const UDP_EVICTIONS: Family =
    counter("portcullis_entrypoint_udp_evicted_sessions_total", "UDP sessions that were given up for newer ones.");
pub(in crate::observe) const UDP_SERVER_UP: Family =
    gauge("portcullis_udp_server_up", "Whether new UDP sessions go to a server (1) or pass it over (0).");
pub(in crate::observe) const UDP_SERVER_REFUSALS: Family =
    counter("portcullis_udp_server_refusals_total", "How often nobody listened at a UDP server's port.");

pub(in crate::observe) const CONFIG_RELOADS: Family =
    counter("traefik_config_reloads_total", "Configurations that were loaded.");
pub(in crate::observe) const CONFIG_LAST_RELOAD: Family =
    gauge("traefik_config_last_reload_success", "When a configuration was last loaded, in seconds since 1970.");
pub(in crate::observe) const CERTIFICATE_END: Family =
    gauge("traefik_tls_certs_not_after", "End of a certificate's validity, in seconds since 1970.");
pub(in crate::observe) const STAPLES: Family =
    gauge("portcullis_ocsp_certificates", "Certificates that name an OCSP responder, by what is known of them.");
pub(in crate::observe) const RESPONDER_ANSWERS: Family =
    counter("portcullis_ocsp_answers_total", "What came of asking OCSP responders, by result.");
pub(in crate::observe) const OPEN_CONNECTIONS: Family =
    gauge("traefik_open_connections", "Connections that are open, per entry point and protocol.");
pub(in crate::observe) const SERVICE_RETRIES: Family =
    counter("traefik_service_retries_total", "Attempts after the first one, per service.");
pub(in crate::observe) const SERVER_UP: Family =
    gauge("traefik_service_server_up", "Whether a server is up (1) or down (0).");

pub(in crate::observe) const BUILD: Family = gauge("portcullis_build_info", "The version that runs; always 1.");
pub(in crate::observe) const GATEWAY_ERRORS: Family =
    counter("portcullis_gateway_errors_total", "Failures that the gateway answered by itself, by code.");
pub(in crate::observe) const CONNECTIONS_REFUSED: Family =
    counter("portcullis_connections_refused_total", "Connections closed before they carried anything, by reason.");
pub(in crate::observe) const TCP_OPEN: Family =
    gauge("portcullis_tcp_open_connections", "TCP connections that are open, per router and service.");
pub(in crate::observe) const TCP_CONNECTIONS: Family =
    counter("portcullis_tcp_connections_total", "TCP connections that have ended, per router, service and ending.");
pub(in crate::observe) const TCP_RECEIVED: Family =
    counter("portcullis_tcp_received_bytes_total", "Bytes from clients of TCP connections that have ended.");
pub(in crate::observe) const TCP_SENT: Family =
    counter("portcullis_tcp_sent_bytes_total", "Bytes to clients of TCP connections that have ended.");
pub(in crate::observe) const TCP_SECONDS: Family =
    counter("portcullis_tcp_connection_seconds_total", "How long TCP connections lasted that have ended, in seconds.");
pub(in crate::observe) const TCP_SERVER_UP: Family =
    gauge("portcullis_tcp_server_up", "Whether a server of a TCP service is up (1) or down (0).");
pub(in crate::observe) const ACCESS_LOG_DROPS: Family =
    counter("portcullis_access_log_dropped_lines_total", "Lines that the access log has lost.");
pub(in crate::observe) const LOG_DROPS: Family =
    counter("portcullis_log_dropped_lines_total", "Lines that the process log has lost.");
pub(in crate::observe) const CONFIG_RELOAD_FAILURES: Family =
    counter("portcullis_config_reload_failures_total", "Configurations that could not be loaded.");
pub(in crate::observe) const CONFIG_PROBLEMS: Family =
    gauge("portcullis_config_problems", "What is wrong with the configuration in use, by severity.");
pub(in crate::observe) const UPGRADES: Family =
    counter("portcullis_upgrades_total", "Hand-overs to a new process, by result.");

pub(in crate::observe) const CPU: Family =
    counter("process_cpu_seconds_total", "Processor time spent, in user and system mode, in seconds.");
pub(in crate::observe) const OPEN_FDS: Family = gauge("process_open_fds", "File descriptors that are open.");
pub(in crate::observe) const MAX_FDS: Family = gauge("process_max_fds", "File descriptors that may be open.");
pub(in crate::observe) const VIRTUAL_MEMORY: Family = gauge("process_virtual_memory_bytes", "Address space, in bytes.");
pub(in crate::observe) const RESIDENT_MEMORY: Family =
    gauge("process_resident_memory_bytes", "Memory in use, in bytes.");
pub(in crate::observe) const THREADS: Family = gauge("process_threads", "Threads.");
pub(in crate::observe) const START_TIME: Family =
    gauge("process_start_time_seconds", "When the process was started, in seconds since 1970.");
