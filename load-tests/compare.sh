#!/usr/bin/env bash
# Measures Portcullis beside nginx, HAProxy, Caddy and the smallest proxy that Pingora makes, and writes a table of what came out.
#
#   load-tests/compare.sh [--scenario NAME]... [--proxy NAME]... [--rounds N] [--seconds N] [--name NAME] [--load wrk|oha] [--short]
#
# Scenarios:
#   plain        68 bytes, 64 connections
#   full         plain, with 10,000 routes, metrics, a JSON access log in a file, fields set both ways, a rate limit for each client
#   connections  plain, over 2,000 connections
#   1k, 100k     larger responses
#   post         10 KiB in each request
#
# Each proxy has core 0 to itself, with one thread; the servers behind it and the load generator share core 1. Everybody keeps
# connections alive on both sides. Rounds go through all proxies in turn, so that a machine that slows down slows all of them down.
# CPU is the user and system time of the proxy's processes, divided by the requests that the load generator counted.
# p50 and p99 are measured at full load: they say how evenly the work is done, not how fast an idle proxy answers.
#
# Loopback only; proxies that are not installed are left out. PORTCULLIS_BIN and BARE_BIN name other programs than those built here with
# `--profile ${PROFILE:-dist} --features mimalloc` (BUILD is then what the table says about them); COMPARE_PORT is the first of three ports.
set -euo pipefail
cd "$(dirname "$0")/.."

all_scenarios=(plain full connections 1k 100k post)
all_proxies=(nginx haproxy caddy bare portcullis)
scenarios=() proxies=() rounds=3 seconds=8 name= generator=wrk
while (($#)); do
    case $1 in
    --scenario) scenarios+=("$2") && shift 2 ;;
    --proxy) proxies+=("$2") && shift 2 ;;
    --rounds) rounds=$2 && shift 2 ;;
    --seconds) seconds=$2 && shift 2 ;;
    --name) name=$2 && shift 2 ;;
    --load) generator=$2 && shift 2 ;;
    --short) rounds=1 seconds=3 && shift ;;
    *)
        sed -n '2,/^set -e/s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    esac
done
((${#scenarios[@]})) || scenarios=("${all_scenarios[@]}")
((${#proxies[@]})) || proxies=("${all_proxies[@]}")

[[ $generator == wrk || $generator == oha ]] || { echo "--load takes wrk or oha" >&2 && exit 2; }
for program in "$generator" nginx curl taskset; do
    command -v "$program" >/dev/null || { echo "$program is needed" >&2 && exit 1; }
done
(($(nproc) >= 2)) || { echo "two cores are needed: one for the proxy, one for everything else" >&2 && exit 1; }
installed=()
for proxy in "${proxies[@]}"; do
    case $proxy in
    bare | portcullis) installed+=("$proxy") ;;
    *) if command -v "$proxy" >/dev/null; then installed+=("$proxy"); else echo "left out, not installed: $proxy" >&2; fi ;;
    esac
done

profile=${PROFILE:-dist}
if [[ -z ${PORTCULLIS_BIN:-} || -z ${BARE_BIN:-} ]]; then
    cargo build --locked --profile "$profile" --features mimalloc --bin portcullis --example bare_pingora
fi
portcullis=$(realpath "${PORTCULLIS_BIN:-target/$profile/portcullis}")
bare=$(realpath "${BARE_BIN:-target/$profile/examples/bare_pingora}")
name=${name:-$(date +%F)-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}
result=load-tests/results/$name.md

port=${COMPARE_PORT:-19100}
backend_port=$((port + 1)) admin_port=$((port + 2))
work=$(mktemp -d "${TMPDIR:-/tmp}/compare.XXXXXX")
raw=$work/raw.tsv
backend= proxy_pid=
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -H -n)"

stop() {
    [[ -n $1 ]] || return 0
    kill "$1" 2>/dev/null || return 0
    for _ in $(seq 50); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}
finish() {
    local code=$?
    stop "$proxy_pid"
    stop "$backend"
    if ((code)); then
        echo "failed; what they said is in $work" >&2
    else
        rm -rf "$work"
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# nginx as root would let its workers read as nobody.
nginx_user=
((EUID)) || nginx_user='user root;'

write_backend() {
    mkdir -p "$work/www" "$work/backend"
    head -c 68 /dev/zero | tr '\0' x >"$work/www/index.html"
    head -c 1024 /dev/zero | tr '\0' x >"$work/www/1k"
    head -c 102400 /dev/zero | tr '\0' x >"$work/www/100k"
    cat >"$work/backend.conf" <<END
$nginx_user
daemon off; worker_processes 1; pid $work/backend/pid; error_log $work/backend/error.log;
events { worker_connections 8192; }
http {
    access_log off; keepalive_requests 1000000000; client_body_temp_path $work/backend/body;
    open_file_cache max=16; sendfile on; tcp_nopush on;
    server {
        listen 127.0.0.1:$backend_port backlog=8192 reuseport;
        root $work/www;
        location = /post { client_max_body_size 1m; client_body_buffer_size 64k; return 200 "taken\n"; }
    }
}
END
}

write_nginx() {
    mkdir -p "$work/nginx"
    local more='' servers
    local location="proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host \$host;"
    servers="server { listen 127.0.0.1:$port backlog=8192; location / { $location } }"
    if [[ $1 == full ]]; then
        more="server_names_hash_max_size 65536; server_names_hash_bucket_size 128;
        log_format json escape=json '{\"time\":\"\$time_iso8601\",\"client\":\"\$remote_addr\",\"request\":\"\$request\",\"status\":\$status,\"bytes\":\$body_bytes_sent,\"duration\":\$request_time,\"host\":\"\$host\",\"upstream\":\"\$upstream_addr\"}';
        access_log $work/nginx/access.log json buffer=64k flush=1s;
        limit_req_zone \$binary_remote_addr zone=clients:10m rate=1000000r/s;"
        servers=$(seq 10000 | awk -v listen="127.0.0.1:$port" -v location="$location" '{
            printf "server { listen %s; server_name host-%d.example; location / { limit_req zone=clients burst=1000000 nodelay; add_header X-Frame-Options DENY; proxy_set_header X-Gateway compare; %s } }\n", listen, $1, location }')
    fi
    cat >"$work/nginx.conf" <<END
$nginx_user
daemon off; worker_processes 1; pid $work/nginx/pid; error_log $work/nginx/error.log;
events { worker_connections 8192; }
http {
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path $work/nginx/body; proxy_temp_path $work/nginx/proxy;
    $more
    upstream backend { server 127.0.0.1:$backend_port; keepalive 4096; keepalive_requests 1000000000; }
    $servers
}
END
}

write_haproxy() {
    cat >"$work/haproxy.cfg" <<END
global
    nbthread 1
    maxconn 8000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend web
    bind 127.0.0.1:$port backlog 8192
    default_backend app
backend app
    server one 127.0.0.1:$backend_port pool-max-conn 4096
END
}

write_caddy() {
    cat >"$work/Caddyfile" <<END
{
    admin off
    auto_https off
    log {
        level ERROR
    }
}
http://:$port {
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:$backend_port {
        transport http {
            keepalive_idle_conns 4096
            keepalive_idle_conns_per_host 4096
        }
    }
}
END
}

write_portcullis() {
    local more='' accesslog=''
    if [[ $1 == full ]]; then
        more="metrics: { prometheus: { addRoutersLabels: true } }"
        accesslog="accessLog: { filePath: $work/access.log, format: json }"
    fi
    cat >"$work/static.yaml" <<END
threads: 1
entryPoints:
  web: { address: "127.0.0.1:$port" }
  traefik: { address: "127.0.0.1:$admin_port" }
providers: { file: { filename: $work/dynamic.yaml, watch: false } }
serversTransport: { maxIdleConnsPerHost: 4096 }
log: { level: ERROR }
control: { socket: $work/control.sock }
$more
$accesslog
END
    {
        echo "http:"
        echo "  services:"
        echo "    app: { loadBalancer: { servers: [{ url: 'http://127.0.0.1:$backend_port' }] } }"
        if [[ $1 == full ]]; then
            echo "  middlewares:"
            echo "    fields: { headers: { customRequestHeaders: { X-Gateway: compare }, frameDeny: true } }"
            echo "    clients: { rateLimit: { average: 1000000, burst: 1000000, sourceCriterion: { ipStrategy: { depth: 0 } } } }"
            echo "  routers:"
            seq 10000 | awk '{ printf "    r%d: { rule: \"Host(`host-%d.example`) && PathPrefix(`/`)\", service: app, middlewares: [fields, clients] }\n", $1, $1 }'
        else
            echo "  routers:"
            echo "    all: { rule: 'PathPrefix(\`/\`)', entryPoints: [web], service: app }"
        fi
    } >"$work/dynamic.yaml"
}

start() {
    local proxy=$1 scenario=$2 command
    case $proxy in
    nginx) write_nginx "$scenario" && command=(nginx -p "$work/nginx" -c "$work/nginx.conf") ;;
    haproxy) write_haproxy && command=(haproxy -db -f "$work/haproxy.cfg") ;;
    caddy) write_caddy && command=(env XDG_DATA_HOME="$work" XDG_CONFIG_HOME="$work" caddy run --config "$work/Caddyfile" --adapter caddyfile) ;;
    bare) command=("$bare" "127.0.0.1:$port" "127.0.0.1:$backend_port") ;;
    portcullis) write_portcullis "$scenario" && command=("$portcullis" run "--configFile=$work/static.yaml") ;;
    esac
    taskset -c 0 "${command[@]}" >"$work/$proxy.log" 2>&1 </dev/null &
    proxy_pid=$!
    for _ in $(seq 600); do
        if curl -fso "$work/answer" --max-time 2 -H 'Host: host-5000.example' "http://127.0.0.1:$port/" 2>/dev/null; then
            cmp -s "$work/answer" "$work/www/index.html" && return
        fi
        kill -0 "$proxy_pid" 2>/dev/null || break
        sleep 0.1
    done
    echo "$proxy does not serve" >&2
    tail -n 5 "$work/$proxy.log" >&2
    exit 1
}

family() {
    echo "$proxy_pid" "$(pgrep -P "$proxy_pid" | tr '\n' ' ')"
}

# Clock ticks that the proxy's processes have used.
ticks() {
    local pid sum=0
    for pid in $(family); do
        sum=$((sum + $(sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }')))
    done
    echo "$sum"
}

resident_kib() {
    local pid sum=0
    for pid in $(family); do
        sum=$((sum + $(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status")))
    done
    echo "$sum"
}

head -c 10240 /dev/zero | tr '\0' x >"$work/post.txt"
cat >"$work/post.lua" <<'END'
wrk.method = "POST"
wrk.body = string.rep("x", 10240)
END

load() {
    local scenario=$1 duration=$2 path=/ connections=64 script=() body=()
    case $scenario in
    connections) connections=2000 ;;
    1k | 100k) path=/$scenario ;;
    post) path=/post script=(-s "$work/post.lua") body=(-m POST -D "$work/post.txt") ;;
    esac
    if [[ $generator == oha ]]; then
        taskset -c 1 oha --no-tui -c "$connections" -z "${duration}s" -t 10s "${body[@]}" \
            -H 'Host: host-5000.example' "http://127.0.0.1:$port$path"
        return
    fi
    taskset -c 1 wrk -t1 -c"$connections" -d"${duration}s" --timeout 10s --latency "${script[@]}" \
        -H 'Host: host-5000.example' "http://127.0.0.1:$port$path"
}

measure() {
    local proxy=$1 scenario=$2 before after said
    start "$proxy" "$scenario"
    load "$scenario" 1 >/dev/null
    before=$(ticks)
    said=$(load "$scenario" "$seconds")
    after=$(ticks)
    awk -v scenario="$scenario" -v proxy="$proxy" -v cpu=$((after - before)) -v hertz="$(getconf CLK_TCK)" -v rss="$(resident_kib)" '
        function milliseconds(text) { return text ~ /(u|µ)s$/ ? text / 1000 : text ~ /ms$/ ? text + 0 : text * 1000 }
        $1 == "50%" { p50 = milliseconds($2) }
        $1 == "99%" { p99 = milliseconds($2) }
        / requests in / { requests = $1 }
        $1 == "Requests/sec:" { rate = $2 }
        # The same in the words of oha; what it gives up at its end is no failure.
        $1 == "50.00%" { p50 = milliseconds($3 $4) }
        $1 == "99.00%" { p99 = milliseconds($3 $4) }
        $3 == "responses" { if ($1 ~ /^\[2/) requests += $2; else bad += $2 }
        /Socket errors/ { gsub(",", ""); bad += $4 + $6 + $8 + $10 }
        /Non-2xx/ { bad += $NF }
        END { printf "%s\t%s\t%.0f\t%.2f\t%.2f\t%.2f\t%.1f\t%d\n", scenario, proxy, rate, cpu / hertz * 1e6 / requests, p50, p99, rss / 1024, bad }
    ' <<<"$said" | tee -a "$raw"
    stop "$proxy_pid"
    proxy_pid=
}

takes_part() {
    # In `full`, HAProxy cannot write to a file and Caddy has no rate limit; bare Pingora stands for the floor.
    [[ $2 != full || $1 == nginx || $1 == bare || $1 == portcullis ]]
}

write_backend
taskset -c 1 nginx -p "$work/backend" -c "$work/backend.conf" >"$work/backend.log" 2>&1 </dev/null &
backend=$!
load_before=$(cut -d' ' -f1-3 /proc/loadavg)
echo "scenario proxy requests/s cpu-us p50-ms p99-ms rss-MiB failed"
for scenario in "${scenarios[@]}"; do
    for _ in $(seq "$rounds"); do
        for proxy in "${installed[@]}"; do
            takes_part "$proxy" "$scenario" || continue
            measure "$proxy" "$scenario"
        done
    done
done

version() {
    case $1 in
    nginx) nginx -v 2>&1 | sed 's/.*\///' ;;
    haproxy) haproxy -v | sed -n '1s/.*version \([^ ]*\).*/\1/p' ;;
    caddy) caddy version | cut -d' ' -f1 ;;
    bare) sed -n 's/^pingora = .*"=\([0-9.]*\)".*/\1/p' Cargo.toml ;;
    portcullis) sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1 ;;
    esac
}

# Medians of the rounds, with the lowest and highest where they tell how far to trust them.
mkdir -p load-tests/results
{
    echo "# Side by side: $name"
    echo
    echo "| | |"
    echo "|---|---|"
    echo "| commit | $(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet 2>/dev/null || echo ', with changes') |"
    echo "| date | $(date -u +'%F %H:%M UTC') |"
    echo "| machine | $(nproc) cores, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r) |"
    echo "| others on the machine | load average before the first round: $load_before |"
    echo "| build | ${BUILD:-profile $profile, mimalloc} |"
    echo "| rounds | $rounds of $seconds s; medians, (lowest to highest) |"
    for proxy in "${installed[@]}"; do echo "| $proxy | $(version "$proxy") |"; done
    echo
    echo "One core for the proxy with one thread, another for the load ($generator) and the server (nginx). \`load-tests/compare.sh\` says more."
    for scenario in "${scenarios[@]}"; do
        echo
        echo "## $scenario"
        echo
        echo "| proxy | CPU µs/request | to bare | requests/s | to bare | p50 ms | p99 ms | RSS MiB | failed |"
        echo "|---|---|---|---|---|---|---|---|---|"
        awk -F'\t' -v scenario="$scenario" -v order="${installed[*]}" '
            function median(proxy, field,    n, i, j, list, swap) {
                n = count[proxy]
                for (i = 1; i <= n; i++) list[i] = value[proxy, i, field]
                for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (list[j] < list[i]) { swap = list[i]; list[i] = list[j]; list[j] = swap }
                low = list[1]; high = list[n]
                return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
            }
            function ratio(proxy, field) { return count["bare"] ? sprintf("%.2f", median(proxy, field) / median("bare", field)) : "–" }
            $1 == scenario { n = ++count[$2]; for (field = 3; field <= 8; field++) value[$2, n, field] = $field + 0 }
            END {
                proxies = split(order, list, " ")
                for (at = 1; at <= proxies; at++) {
                    proxy = list[at]
                    if (!count[proxy]) continue
                    cpu = sprintf("%.1f", median(proxy, 4)); cpu = cpu sprintf(" (%.1f–%.1f)", low, high)
                    rate = sprintf("%d", median(proxy, 3)); rate = rate sprintf(" (%d–%d)", low, high)
                    printf "| %s | %s | %s | %s | %s | %.2f | %.2f | %.0f | %d |\n", proxy, cpu, ratio(proxy, 4), rate, ratio(proxy, 3), median(proxy, 5), median(proxy, 6), median(proxy, 7), median(proxy, 8)
                }
            }' "$raw"
    done
} >"$result"
echo "written: $result"
