# Routing in Traefik's words, which Traefik and Portcullis read alike. shellcheck shell=bash

write_routing() { # FILE
    local url="http://127.0.0.1:$server_port"
    [[ $behind != h2c ]] || url="h2c://127.0.0.1:$server_port"
    {
        case $front in
        tcp)
            echo "tcp:"
            echo "  routers: { all: { rule: 'HostSNI(\`*\`)', entryPoints: [web], service: app } }"
            echo "  services: { app: { loadBalancer: { servers: [{ address: '127.0.0.1:$server_port' }] } } }"
            ;;
        udp)
            echo "udp:"
            echo "  routers: { all: { entryPoints: [web], service: app } }"
            echo "  services: { app: { loadBalancer: { servers: [{ address: '127.0.0.1:$server_port' }] } } }"
            ;;
        http | https)
            echo "http:"
            echo "  services: { app: { loadBalancer: { servers: [{ url: '$url' }] } } }"
            ;;
        esac
        if [[ $scenario == full ]]; then
            echo "  middlewares:"
            echo "    fields: { headers: { customRequestHeaders: { X-Gateway: compare }, frameDeny: true } }"
            echo "    clients: { rateLimit: { average: 1000000, burst: 1000000, sourceCriterion: { ipStrategy: { depth: 0 } } } }"
            echo "  routers:"
            seq 10000 | awk '{ printf "    r%d: { rule: \"Host(`host-%d.example`) && PathPrefix(`/`)\", service: app, middlewares: [fields, clients] }\n", $1, $1 }'
        elif [[ $front == http ]]; then
            echo "  routers: { all: { rule: 'PathPrefix(\`/\`)', entryPoints: [web], service: app } }"
        elif [[ $front == https ]]; then
            echo "  routers: { all: { rule: 'PathPrefix(\`/\`)', entryPoints: [web], service: app, tls: {} } }"
            echo "tls:"
            echo "  certificates: [{ certFile: $work/cert.pem, keyFile: $work/key.pem }]"
            echo "  options: { default: { minVersion: VersionTLS13 } }"
        fi
    } >"$1"
}

# What both are told when they start; each has a line or two of its own besides.
static_settings() { # DYNAMIC ACCESS_LOG
    local address="127.0.0.1:$port"
    [[ $front != udp ]] || address+=/udp
    cat <<CONF
entryPoints:
  web: { address: "$address", transport: { respondingTimeouts: { idleTimeout: 1h } } }
  traefik: { address: "127.0.0.1:$admin_port" }
providers: { file: { filename: $1, watch: false } }
serversTransport: { maxIdleConnsPerHost: 4096 }
log: { level: ERROR }
CONF
    if [[ $scenario == full ]]; then
        echo "metrics: { prometheus: { addRoutersLabels: true } }"
        echo "accessLog: { filePath: $2, format: json }"
    fi
}
