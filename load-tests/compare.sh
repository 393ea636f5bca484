#!/usr/bin/env bash
# Measures Portcullis beside nginx, HAProxy, Envoy, Traefik, Caddy and the smallest proxy that Pingora makes, and writes a table of
# what came out.
#
#   load-tests/compare.sh [--scenario NAME]... [--proxy NAME]... [--rounds N] [--seconds N] [--name NAME] [--load wrk|oha] [--held N] [--short]
#
# Scenarios:
#   plain        68 bytes, 64 connections
#   full         plain, with 10,000 routes, metrics, a JSON access log in a file, fields set both ways, a rate limit for each client
#   connections  plain, over 2,000 connections
#   1k, 100k     larger responses
#   post         10 KiB in each request
#   tls          plain over TLS
#   tls-new      TLS connections with one request each, every handshake a full one; tls-resumed: every one goes on with a session
#   h2           HTTP/2 over TLS, 8 connections of 100 streams, to a server that speaks HTTP/1.1
#   grpc         the same with unary calls of 64 bytes, to a server that speaks HTTP/2 in clear text
#   websocket    messages of 64 bytes there and back, 64 connections
#   tcp          8 connections over which a server sends all it can; tcp-new: connections with 64 bytes there and back
#   udp          datagrams of 64 bytes there and back, 64 clients
#   idle         what a connection costs that was used once and waits; idle-tls: over TLS; idle-h2: HTTP/2 over TLS (--held: how many)
#
# Each proxy has core 0 to itself, with one thread; the servers behind it and the load generator share core 1. Everybody keeps
# connections alive on both sides and writes no log. TLS is 1.3 with X25519, AES-128-GCM, one ECDSA certificate (P-256) and session
# tickets. Rounds go through all proxies in turn, so that a machine that slows down slows all of them down.
# CPU is the user and system time of the proxy's processes, divided by the units that the load generator counted, and `core` the part of
# its core that a proxy was seen to use: much below 100 %, the other core was the bottleneck, and the rate says nothing about the proxy.
# p50 and p99 are measured at full load: they say how evenly the work is done, not how fast an idle proxy answers.
# An idle connection's memory is what is resident more than before, divided by their number.
#
# Proxies and scenarios are a file or a few lines in load-tests/compare/. Who makes the load: wrk (or oha) for HTTP/1.1, h2load for HTTP/2
# and gRPC, load-tests/gauge for the rest. gRPC is answered by the gauge too, since no package has a server that is fast enough not to be
# what is measured: it reads whole messages and answers with trailers, as any gRPC server does.
#
# Loopback only; proxies that are not installed are left out, and so are those that cannot do a scenario. PORTCULLIS_BIN, BARE_BIN and
# GAUGE_BIN name other programs than those built here with `--profile ${PROFILE:-dist} --features mimalloc` (BUILD is then what the table
# says about them); COMPARE_PORT is the first of three ports.
set -euo pipefail
cd "$(dirname "$0")/.."

all_proxies=(nginx haproxy envoy traefik caddy bare portcullis)
scenarios=() proxies=() rounds=3 seconds=8 name='' generator=wrk held=2000
# shellcheck source=load-tests/compare/scenarios.sh
source load-tests/compare/scenarios.sh
while (($#)); do
    case $1 in
    --scenario) scenarios+=("$2") && shift 2 ;;
    --proxy) proxies+=("$2") && shift 2 ;;
    --rounds) rounds=$2 && shift 2 ;;
    --seconds) seconds=$2 && shift 2 ;;
    --name) name=$2 && shift 2 ;;
    --load) generator=$2 && shift 2 ;;
    --held) held=$2 && shift 2 ;;
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
for program in nginx curl taskset openssl; do
    command -v "$program" >/dev/null || { echo "$program is needed" >&2 && exit 1; }
done
possible=()
for scenario in "${scenarios[@]}"; do
    describe "$scenario"
    if [[ $load == gauge || $load == hold ]] || command -v "$load" >/dev/null; then
        possible+=("$scenario")
    else
        echo "left out, $load is not installed: $scenario" >&2
    fi
done
((${#possible[@]})) || exit 1
scenarios=("${possible[@]}")
(($(nproc) >= 2)) || { echo "two cores are needed: one for the proxy, one for everything else" >&2 && exit 1; }

profile=${PROFILE:-dist} build=()
[[ -n ${PORTCULLIS_BIN:-} ]] || build+=(--bin portcullis)
[[ -n ${BARE_BIN:-} ]] || build+=(--example bare_pingora)
[[ -n ${GAUGE_BIN:-} ]] || build+=(--example gauge)
((!${#build[@]})) || cargo build --locked --profile "$profile" --features mimalloc "${build[@]}"
portcullis=$(realpath "${PORTCULLIS_BIN:-target/$profile/portcullis}")
bare=$(realpath "${BARE_BIN:-target/$profile/examples/bare_pingora}")
gauge=$(realpath "${GAUGE_BIN:-target/$profile/examples/gauge}")
name=${name:-$(date +%F)-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}

port=${COMPARE_PORT:-19100}
server_port=$((port + 1)) admin_port=$((port + 2))
work=$(mktemp -d "${TMPDIR:-/tmp}/compare.XXXXXX")
raw=$work/raw.tsv
server_pid='' proxy_pid='' holder='' running_server=''
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -H -n)"

for part in processes servers load report; do
    # shellcheck source=/dev/null
    source "load-tests/compare/$part.sh"
done
# shellcheck source=load-tests/compare/routing.sh
source load-tests/compare/routing.sh

finish() {
    local code=$?
    stop "$holder"
    stop "$proxy_pid"
    stop "$server_pid"
    if ((code)); then
        echo "failed; what they said is in $work" >&2
    else
        rm -rf "$work"
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# use PROXY: reads its file. Each has the same four parts: `program`, `supports`, `version`, `configure`.
use() {
    # shellcheck source=/dev/null
    source "load-tests/compare/$1.sh"
}

measure_work() { # PROXY
    local before after began said
    make_load 1 >/dev/null
    before=$(ticks "$proxy_pid") began=$(date +%s%N)
    said=$(make_load "$seconds")
    after=$(ticks "$proxy_pid")
    awk -v scenario="$scenario" -v proxy="$1" -v ticks=$((after - before)) -v hertz="$(getconf CLK_TCK)" \
        -v rss="$(resident_kib "$proxy_pid")" -v nanos=$(($(date +%s%N) - began)) '
        { figure[$1] = $2 }
        function known(name) { return name in figure ? sprintf("%.2f", figure[name]) : "–" }
        END {
            cpu = figure["done"] ? sprintf("%.2f", ticks / hertz * 1e6 / figure["done"]) : "–"
            busy = ticks / hertz / (nanos / 1e9) * 100
            printf "%s\t%s\t%.0f\t%s\t%s\t%s\t%.1f\t%d\t%.0f\n", scenario, proxy, figure["rate"], cpu, known("p50"), known("p99"), rss / 1024, figure["failed"], busy
        }' <<<"$said"
}

# What the first connections bring along is not theirs: pools, code that was not run before.
measure_memory() { # PROXY
    local before after
    hold 20
    stop "$holder"
    sleep 1
    before=$(resident_kib "$proxy_pid")
    hold "$connections"
    sleep 2
    after=$(resident_kib "$proxy_pid")
    stop "$holder"
    holder=''
    awk -v scenario="$scenario" -v proxy="$1" -v before="$before" -v after="$after" '
        { figure[$1] = $2 }
        END { printf "%s\t%s\t%.1f\t%d\t%.1f\t%.1f\t%d\n", scenario, proxy, figure["held"] ? (after - before) / figure["held"] : 0, figure["held"], before / 1024, after / 1024, figure["failed"] }
    ' "$work/held"
}

hold() { # COUNT
    local kind=plain
    [[ $scenario == idle ]] || kind=${scenario#idle-}
    : >"$work/held"
    taskset -c 1 "$gauge" hold "$kind" --target "127.0.0.1:$port" --count "$1" >"$work/held" 2>"$work/hold.log" </dev/null &
    holder=$!
    until grep -q '^failed' "$work/held"; do
        kill -0 "$holder" 2>/dev/null || { tail -n 3 "$work/hold.log" >&2 && exit 1; }
        sleep 0.1
    done
}

installed=()
for proxy in "${proxies[@]}"; do
    [[ -e load-tests/compare/$proxy.sh ]] || { echo "there is no proxy $proxy; there are: ${all_proxies[*]}" >&2 && exit 2; }
    use "$proxy"
    if command -v "$program" >/dev/null; then installed+=("$proxy"); else echo "left out, not installed: $proxy" >&2; fi
done

write_files
write_certificate
write_load
load_before=$(cut -d' ' -f1-3 /proc/loadavg)
for scenario in "${scenarios[@]}"; do
    describe "$scenario"
    if [[ $load == hold ]]; then
        echo "scenario proxy KiB/connection connections before-MiB after-MiB failed"
    else
        echo "scenario proxy $units/s cpu-us/$unit p50-ms p99-ms rss-MiB failed core-%"
    fi
    start_server
    for round in $(seq "$rounds"); do
        for proxy in "${installed[@]}"; do
            use "$proxy"
            if ! supports; then
                ((round > 1)) || echo "left out, cannot do $scenario: $proxy" >&2
                continue
            fi
            start_proxy "$proxy"
            if [[ $load == hold ]]; then measure_memory "$proxy"; else measure_work "$proxy"; fi >"$work/line"
            tee -a "$raw" <"$work/line"
            stop "$proxy_pid"
            proxy_pid=''
        done
    done
done

mkdir -p load-tests/results
report >"load-tests/results/$name.md"
echo "written: load-tests/results/$name.md"
