#!/usr/bin/env bash
# Upgrades and reloads a running gateway under load and counts what that broke. The answer has to be: nothing. Before each upgrade
# one to a bad successor is tried, which has to be refused aloud and must not hurt anyone either. Every second reload changes the entry
# points as well: those under load get other options, another one comes or goes.
#
#   load-tests/hitless.sh           3 minutes (or HITLESS_SECONDS), 5 upgrades, 60 reloads
#   load-tests/hitless.sh --short   30 seconds, 2 upgrades, 10 reloads
#
# Loopback only. PORTCULLIS_BIN and DRILL_BIN name the programs (default: built in release mode), HITLESS_PORT the first of four ports.
# Ends with 0 if nothing failed and everything that was to happen did happen.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${HITLESS_SECONDS:-180} upgrades=5 reloads=60
if [[ ${1:-} == --short ]]; then
    seconds=30 upgrades=2 reloads=10
elif [[ $# -gt 0 ]]; then
    echo "usage: $0 [--short]" >&2
    exit 2
fi

if [[ -z ${PORTCULLIS_BIN:-} || -z ${DRILL_BIN:-} ]]; then
    cargo build --quiet --release --bin portcullis --example drill
fi
portcullis=$(realpath "${PORTCULLIS_BIN:-target/release/portcullis}")
drill=$(realpath "${DRILL_BIN:-target/release/examples/drill}")
port=${HITLESS_PORT:-18800}
origin_port=$((port + 1)) tcp_port=$((port + 2)) extra_port=$((port + 3))
work=$(mktemp -d "${TMPDIR:-/tmp}/hitless.XXXXXX")
# The gateway puts its control socket where systemd would tell it to.
export RUNTIME_DIRECTORY=$work
control=$work/control.sock
gateway= origin= load=

finish() {
    local code=$?
    # The group holds every generation of the gateway, whoever is its parent by now.
    [[ -z $gateway ]] || kill -KILL -- "-$gateway" 2>/dev/null || true
    [[ -z $load ]] || kill -KILL "$load" 2>/dev/null || true
    [[ -z $origin ]] || { kill "$origin" && wait "$origin"; } 2>/dev/null || true
    if [[ $code -ne 0 && -s $work/gateway.log ]]; then
        echo "last lines of the gateway's log ($work/gateway.log):" >&2
        tail -n 20 "$work/gateway.log" >&2
    else
        rm -rf "$work"
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Writes the routing so that every response says through which generation of it it went; replaced in one step.
route() {
    cat >"$work/dynamic.next" <<END
http:
  routers:
    drill:
      rule: PathPrefix(\`/\`)
      entryPoints: [web]
      service: origin
      middlewares: [generation]
    secure:
      rule: PathPrefix(\`/\`)
      entryPoints: [web]
      service: origin
      middlewares: [generation]
      tls: {}
    calls:
      rule: PathPrefix(\`/drill.Echo/\`)
      entryPoints: [web]
      service: calls
      middlewares: [generation]
      tls: {}
  middlewares:
    generation:
      headers:
        customResponseHeaders:
          X-Generation: "$1"
  services:
    origin:
      loadBalancer:
        servers:
          - url: http://127.0.0.1:$origin_port
    calls:
      loadBalancer:
        servers:
          - url: h2c://127.0.0.1:$origin_port
tls:
  stores:
    default:
      defaultCertificate:
        certFile: $work/cert.pem
        keyFile: $work/key.pem
tcp:
  routers:
    drill:
      rule: HostSNI(\`*\`)
      entryPoints: [tunnels]
      service: origin
  services:
    origin:
      loadBalancer:
        serversTransport: other
        servers:
          - address: 127.0.0.1:$origin_port
  serversTransports:
    # Another one each time, so that the service is built anew.
    other:
      dialTimeout: $((10 + $1))s
udp:
  routers:
    drill:
      entryPoints: [datagrams]
      service: origin
  services:
    origin:
      loadBalancer:
        servers:
          - address: 127.0.0.1:$origin_port
END
    mv "$work/dynamic.next" "$work/dynamic.yaml"
}

# Writes the static configuration: with each number every entry point that the load goes through is told something else, and with every second
# one there is one entry point more. Replaced in one step.
entry_points() {
    local extra=
    (($1 % 2 == 0)) || extra="extra: { address: \"127.0.0.1:$extra_port\" }"
    cat >"$work/static.next" <<END
entryPoints:
  web:
    address: 127.0.0.1:$port
    transport:
      lifeCycle:
        graceTimeOut: 10s
    limits:
      headTimeout: $((8 + $1 % 3))s
  tunnels:
    address: 127.0.0.1:$tcp_port
    limits:
      headTimeout: $((8 + $1 % 3))s
  datagrams:
    address: 127.0.0.1:$port/udp
    # Short, so that sessions end and begin all the time.
    udp:
      timeout: $((500 + $1 % 3))ms
  $extra
providers:
  providersThrottleDuration: 100ms
  file:
    filename: $work/dynamic.yaml
    watch: true
END
    mv "$work/static.next" "$work/static.yaml"
}

# Has other entry points come into force, and looks whether they have.
change_entry_points() {
    entry_points "$1"
    "$portcullis" reload --control "$control" >>"$work/reloads" 2>&1 || return 1
    local found=closed
    # No router names it: it has none to offer but an answer.
    [[ $(curl -sS -o /dev/null --max-time 5 -w '%{http_code}' "http://127.0.0.1:$extra_port/" 2>/dev/null) == 000 ]] || found=open
    if (($1 % 2 == 0)); then [[ $found == closed ]]; else [[ $found == open ]]; fi
}

# A program that differs from the one before by a byte, put in its place in one step.
replace_program() {
    cp "$portcullis" "$work/portcullis.next"
    head -c "$1" /dev/zero >>"$work/portcullis.next"
    mv "$work/portcullis.next" "$work/portcullis"
}

# One kind of bad successor after the other: not executable, ends at once, no program at all, a configuration that is wrong.
spoil_program() {
    case $(($1 % 4)) in
    0) cp "$portcullis" "$work/portcullis.next" && chmod -x "$work/portcullis.next" ;;
    1) printf '#!/bin/sh\nexit 3\n' >"$work/portcullis.next" && chmod +x "$work/portcullis.next" ;;
    2) head -c 4096 /dev/urandom >"$work/portcullis.next" && chmod +x "$work/portcullis.next" ;;
    3) cp "$work/static.yaml" "$work/static.good" && echo 'entryPoints: 7' >"$work/static.yaml" && return ;;
    esac
    mv "$work/portcullis.next" "$work/portcullis"
}

wait_until_served() {
    for _ in $(seq 100); do
        if curl -fsS -o /dev/null --max-time 1 "http://127.0.0.1:$port/nonce/hello" 2>/dev/null; then return; fi
        sleep 0.1
    done
    echo "the gateway does not serve" >&2
    exit 1
}

generations_alive() {
    ps -o pid= -o stat= -g "$gateway" 2>/dev/null | awk '$2 !~ /^Z/ { count++ } END { print count + 0 }'
}

"$drill" certify "$work"
route 0
entry_points 0
replace_program 0

"$drill" origin --listen "127.0.0.1:$origin_port" &
origin=$!
# A session of its own makes one process group of all generations.
setsid "$work/portcullis" run --configFile "$work/static.yaml" >"$work/gateway.log" 2>&1 </dev/null &
gateway=$!
wait_until_served

"$drill" load --target "127.0.0.1:$port" --authority "$work/ca.pem" --tcp "127.0.0.1:$tcp_port" --udp "127.0.0.1:$port" --origin "127.0.0.1:$origin_port" --seconds "$seconds" >"$work/table" &
load=$!

# The events lie evenly over the time, a little away from its ends.
upgraded=0 reloaded=0 refused=0 bad=0 most_alive=0 failed=0 changes=0 changed=0
begin=$(date +%s%N)
span=$(((seconds - 4) * 1000000000))
for event in $(seq "$reloads"); do
    due=$((begin + 1000000000 + span * event / (reloads + 1)))
    now=$(date +%s%N)
    ((due <= now)) || sleep "$(awk "BEGIN { print ($due - $now) / 1e9 }")"
    route "$event"
    reloaded=$((reloaded + 1))
    if ((event % 2 == 0)); then
        changes=$((changes + 1))
        if change_entry_points "$changes"; then
            changed=$((changed + 1))
        else
            tail -n 3 "$work/reloads" >&2
        fi
    fi
    if ((event * upgrades / reloads > upgraded + refused)); then
        spoil_program "$upgraded"
        if "$portcullis" upgrade --control "$control" >>"$work/upgrades" 2>&1; then
            echo "an upgrade to a bad successor was called a success" >&2
            failed=1
        else
            bad=$((bad + 1))
        fi
        [[ ! -f $work/static.good ]] || mv "$work/static.good" "$work/static.yaml"
        replace_program $((upgraded + 1))
        if "$portcullis" upgrade --control "$control" >>"$work/upgrades" 2>&1; then
            upgraded=$((upgraded + 1))
        else
            refused=$((refused + 1))
            tail -n 3 "$work/upgrades" >&2
        fi
    fi
    alive=$(generations_alive)
    ((alive <= most_alive)) || most_alive=$alive
done

wait "$load" || failed=1
load=
cat "$work/table"
echo "upgrades: $upgraded of $upgrades, bad successors refused: $bad, reloads: $reloaded of $reloads, entry points changed: $changed of $changes, generations alive at once: at most $most_alive"

# Every predecessor has to be gone when its last client is, and the last one has to end by itself.
for _ in $(seq 200); do
    (($(generations_alive) > 1)) || break
    sleep 0.1
done
if (($(generations_alive) != 1)); then
    echo "$(generations_alive) generations are alive after the load, expected 1"
    failed=1
fi
"$drill" tell "$control" drain || failed=1
for _ in $(seq 200); do
    (($(generations_alive) > 0)) || break
    sleep 0.1
done
if (($(generations_alive) != 0)); then
    echo "the gateway did not end within 20 seconds after it was told to drain"
    failed=1
fi
seen=$(sed -n 's/^configurations seen: //p' "$work/table")
if ((seen < reloads)); then
    # Two reloads within the throttle are one, but these are far apart.
    echo "only $seen configurations were seen in responses, expected at least $reloads"
    failed=1
fi
resumed=$(sed -n 's/^sessions resumed: //p' "$work/table")
if ((resumed == 0)); then
    echo "no TLS session was resumed"
    failed=1
fi
((upgraded == upgrades && changed == changes)) || failed=1
exit "$failed"
