# Envoy. shellcheck shell=bash

program=envoy

supports() {
    # Its rate limit for each client needs a service of its own.
    [[ $scenario != full ]]
}

version() {
    envoy --version | sed -n 's/.*version: [0-9a-f]*\/\([^/]*\)\/.*/\1/p'
}

configure() {
    {
        echo "static_resources:"
        echo "  listeners:"
        case $front in
        tcp) envoy_listener TCP && envoy_tcp ;;
        udp) envoy_listener UDP && envoy_udp ;;
        http | https) envoy_listener TCP && envoy_http ;;
        esac
        envoy_cluster
    } >"$work/envoy.yaml"
    command=(envoy -c "$work/envoy.yaml" --concurrency 1 --log-level error --disable-hot-restart)
}

envoy_listener() { # PROTOCOL
    cat <<CONF
  - address: { socket_address: { protocol: $1, address: 127.0.0.1, port_value: $port } }
    tcp_backlog_size: 8192
CONF
}

envoy_http() {
    cat <<CONF
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          upgrade_configs: [{ upgrade_type: websocket }]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{ match: { prefix: "/" }, route: { cluster: app } }]
CONF
    [[ $front != https ]] || cat <<CONF
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_params: { tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - certificate_chain: { filename: $work/cert.pem }
              private_key: { filename: $work/key.pem }
CONF
}

envoy_tcp() {
    cat <<CONF
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: app
CONF
}

envoy_udp() {
    cat <<CONF
    listener_filters:
    - name: envoy.filters.udp_listener.udp_proxy
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig
        stat_prefix: udp
        matcher:
          on_no_match:
            action:
              name: route
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route
                cluster: app
CONF
}

# The circuit breaker's default is 1,024 connections.
envoy_cluster() {
    cat <<CONF
  clusters:
  - name: app
    type: STATIC
    circuit_breakers:
      thresholds: [{ max_connections: 65536, max_pending_requests: 65536, max_requests: 65536 }]
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $server_port } } }
CONF
    [[ $behind != h2c ]] || cat <<CONF
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
CONF
}
