#!/usr/bin/env bash
# How many routes does it take, how much memory for each, how long until they serve, and how long until one change of one of them serves?
#
#   load-tests/routes.sh                                 10,000 and 100,000 routes
#   load-tests/routes.sh --routes 10000,100000,1000000   other numbers
#   load-tests/routes.sh --format yaml                   the routes in YAML instead of TOML
#   load-tests/routes.sh --services each                 a service for each route; otherwise routes share 100
#   load-tests/routes.sh --check                         fails if a limit is passed: 4.5 MB for 10,000 routes, 20 MB with a service for
#                                                        each, 200 ms to apply 10,000 routes, 50 ms to apply a change of one
#
# Loopback only. PORTCULLIS_BIN names the program (default: built in release mode), ROUTES_PORT the port. The routes that are asked are
# answered by the gateway itself, so that no server has a part in the latencies. They are told by wrk if it is
# there (one connection, mean of a second), otherwise by curl (best of 50).
set -euo pipefail
cd "$(dirname "$0")/.."

routes=10000,100000 format=toml services=100 check=0
while [[ $# -gt 0 ]]; do
    case $1 in
    --routes) routes=${2:?} && shift ;;
    --format) format=${2:?} && shift ;;
    --services) services=${2:?} && shift ;;
    --check) check=1 ;;
    *) echo "usage: $0 [--routes N,N,…] [--format toml|yaml] [--services 100|each] [--check]" >&2 && exit 2 ;;
    esac
    shift
done
[[ -n ${PORTCULLIS_BIN:-} ]] || cargo build --quiet --release --bin portcullis
portcullis=$(realpath "${PORTCULLIS_BIN:-target/release/portcullis}")
port=${ROUTES_PORT:-18890}
work=$(mktemp -d "${TMPDIR:-/tmp}/routes.XXXXXX")
gateway=

finish() {
    local code=$?
    [[ -z $gateway ]] || { kill "$gateway" && wait "$gateway"; } 2>/dev/null || true
    if [[ $code -ne 0 && -s $work/log ]]; then tail -n 5 "$work/log" >&2; fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# The hosts of the routes are numbered; the first, the middle and the last are answered by the gateway's own ping.
generate() {
    awk -v count="$1" -v format="$format" -v services="$([[ $services == each ]] && echo "$1" || echo "$services")" '
    function service(n) { return n == 0 || n == int(count / 2) || n == count - 1 ? "ping@internal" : "s" n % services }
    BEGIN {
        if (format == "yaml") print "http:\n  routers:"
        for (n = 0; n < count; n++) {
            rule = "Host(`host-" n ".example.com`) && PathPrefix(`/api`)"
            if (format == "toml")
                printf "[http.routers.r%d]\nentryPoints = [\"web\"]\nrule = \"%s\"\nservice = \"%s\"\n", n, rule, service(n)
            else
                printf "    r%d:\n      entryPoints: [web]\n      rule: %s\n      service: %s\n", n, rule, service(n)
        }
        if (format == "yaml") print "  services:"
        for (n = 0; n < services; n++)
            if (format == "toml") printf "[[http.services.s%d.loadBalancer.servers]]\nurl = \"http://127.0.0.1:9\"\n", n
            else printf "    s%d: {loadBalancer: {servers: [{url: \"http://127.0.0.1:9\"}]}}\n", n
    }' >"$work/routes.$format"
}

answer() { # HOST: the status
    curl -s -o /dev/null -w '%{http_code}' --max-time 5 -H "Host: $1" "http://127.0.0.1:$port/api" 2>/dev/null || true
}

await() { # HOST STATUS: waits until it is answered so
    local deadline=$((SECONDS + 120))
    until [[ $(answer "$1") == "$2" ]]; do
        if ((SECONDS >= deadline)) || ! kill -0 "$gateway" 2>/dev/null; then
            echo "no $2 for $1" >&2
            exit 1
        fi
        sleep 0.01
    done
}

now() { date +%s%N; }
since() { echo $((($(now) - $1) / 1000000)); }
memory() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$gateway/status"; }
applied() { grep configuration-applied "$work/log" | tail -n 1 | sed -E 's/.*"?milliseconds"?[=:] ?([0-9]+).*/\1/'; }
applications() { grep -c configuration-applied "$work/log" || true; }

latency() { # HOST: microseconds
    if command -v wrk >/dev/null; then
        wrk -t1 -c1 -d1s -H "Host: $1" "http://127.0.0.1:$port/api" |
            awk '$1 == "Latency" { t = $2; print t ~ /us$/ ? t + 0 : t ~ /ms$/ ? t * 1000 : t * 1000000; exit }'
    else
        for _ in $(seq 50); do
            curl -s -o /dev/null -w '%{time_total}\n' -H "Host: $1" "http://127.0.0.1:$port/api"
        done | sort -n | awk 'NR == 1 { print $1 * 1000000 }'
    fi
}

start() {
    : >"$work/log"
    RUNTIME_DIRECTORY=$work "$portcullis" run --configFile "$work/static.toml" >"$work/log" 2>&1 </dev/null &
    gateway=$!
}

stop() {
    kill "$gateway" && wait "$gateway" || true
    gateway=
}

cat >"$work/static.toml" <<END
[entryPoints.web]
address = "127.0.0.1:$port"
[ping]
manualRouting = true
[log]
format = "json"
[providers]
providersThrottleDuration = "10ms"
[providers.file]
filename = "$work/routes.$format"
watch = false
END

# What a gateway takes that has next to none.
generate 3
start
await host-0.example.com 200
sleep 1
base=$(memory VmRSS)
stop

row='%9s %10s %10s %9s %9s %9s %8s %8s %8s %8s %10s %10s %10s\n'
# shellcheck disable=SC2059
printf "$row" routes served applied peak resident per-10k first middle last none 'change:' 'reload' resident
# shellcheck disable=SC2059
printf "$row" '' ms ms MB MB MB µs µs µs µs 'apply ms' 'ms' MB
failed=0
for count in ${routes//,/ }; do
    generate "$count"
    begin=$(now)
    start
    await "host-$((count - 1)).example.com" 200
    served=$(since "$begin")
    sleep 1
    # Lines of the log may be behind, but not as much as that.
    first_apply=$(applied)
    resident=$(memory VmRSS) peak=$(memory VmHWM)
    latencies=()
    for host in host-0.example.com "host-$((count / 2)).example.com" "host-$((count - 1)).example.com" none.example.com; do
        latencies+=("$(latency "$host")")
    done
    sed -i "s/host-0\.example/changed.example/" "$work/routes.$format"
    before=$(applications)
    begin=$(now)
    RUNTIME_DIRECTORY=$work "$portcullis" reload >/dev/null
    reload=$(since "$begin")
    await changed.example.com 200
    for _ in $(seq 200); do (($(applications) == before)) || break; sleep 0.01; done
    change=$(applied)
    sleep 1
    again=$(memory VmRSS)
    stop
    per=$(awk -v all="$resident" -v base="$base" -v count="$count" 'BEGIN { printf "%.2f", (all - base) * 1.024 / 1000 / count * 10000 }')
    mb() { awk -v kb="$1" 'BEGIN { printf "%.1f", kb * 1.024 / 1000 }'; }
    # shellcheck disable=SC2059
    printf "$row" "$count" "$served" "$first_apply" "$(mb "$peak")" "$(mb "$resident")" "$per" "${latencies[@]}" "$change" "$reload" "$(mb "$again")"
    if ((check)); then
        limit=$([[ $services == each ]] && echo 20 || echo 4.5)
        awk -v per="$per" -v limit="$limit" 'BEGIN { exit per > limit }' || { echo "more than $limit MB for 10,000 routes" >&2 && failed=1; }
        if ((count == 10000)); then
            ((first_apply <= 200)) || { echo "more than 200 ms to apply 10,000 routes" >&2 && failed=1; }
            ((change <= 50)) || { echo "more than 50 ms to apply one change among 10,000 routes" >&2 && failed=1; }
        fi
    fi
done
echo "without routes: $(awk -v kb="$base" 'BEGIN { printf "%.1f", kb * 1.024 / 1000 }') MB. apply: merge, compile, swap; reload: reading the file as well."
exit "$failed"
