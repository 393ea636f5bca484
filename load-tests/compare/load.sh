# The loads. Each prints lines of a name and a figure: done, rate, p50 and p99 (milliseconds, where they are known), failed.
# shellcheck shell=bash

write_load() {
    head -c 10240 /dev/zero | tr '\0' x >"$work/post.txt"
    cat >"$work/post.lua" <<'LUA'
wrk.method = "POST"
wrk.body = string.rep("x", 10240)
LUA
    # One message of 64 bytes, not compressed.
    { printf '\0\0\0\0\100' && head -c 64 /dev/zero | tr '\0' x; } >"$work/message"
    # One key exchange and one suite, so that all proxies do the same work.
    cat >"$work/openssl.cnf" <<'CONF'
openssl_conf = all
[all]
ssl_conf = modules
[modules]
system_default = tls
[tls]
MinProtocol = TLSv1.3
Ciphersuites = TLS_AES_128_GCM_SHA256
Groups = X25519
CONF
}

make_load() { # SECONDS
    local command=()
    case $load in
    wrk | oha | h2load) "load_by_$load" "$1" ;;
    gauge) command=("$gauge" load "$scenario" --target "127.0.0.1:$port" --seconds "$1" --connections "$connections") ;;
    esac
    OPENSSL_CONF=$work/openssl.cnf taskset -c 1 "${command[@]}" | "understand_$load"
}

load_by_wrk() {
    command=(wrk -t1 -c"$connections" -d"${1}s" --timeout 10s --latency)
    [[ $scenario != post ]] || command+=(-s "$work/post.lua")
    command+=(-H 'Host: host-5000.example' "$front://localhost:$port$path")
}

load_by_oha() {
    command=(oha --no-tui --insecure -c "$connections" -z "${1}s" -t 10s)
    [[ $scenario != post ]] || command+=(-m POST -D "$work/post.txt")
    command+=(-H 'Host: host-5000.example' "$front://localhost:$port$path")
}

load_by_h2load() {
    command=(h2load -t1 -c"$connections" -m100 -D"$1" --connect-to "127.0.0.1:$port" --log-file "$work/times")
    [[ $scenario != grpc ]] || command+=(-d "$work/message" -H 'content-type: application/grpc' -H 'te: trailers')
    command+=("https://host-5000.example:$port$path")
    rm -f "$work/times"
}

understand_gauge() {
    cat
}

understand_wrk() {
    awk '
        function milliseconds(text) { return text ~ /us$/ ? text / 1000 : text ~ /ms$/ ? text + 0 : text * 1000 }
        $1 == "50%" { print "p50", milliseconds($2) }
        $1 == "99%" { print "p99", milliseconds($2) }
        / requests in / { print "done", $1 }
        $1 == "Requests/sec:" { print "rate", $2 }
        /Socket errors/ { gsub(",", ""); failed += $4 + $6 + $8 + $10 }
        /Non-2xx/ { failed += $NF }
        END { print "failed", failed + 0 }'
}

# What oha gives up at its end is no failure.
understand_oha() {
    awk '
        function milliseconds(text) { return text ~ /µs$/ ? text / 1000 : text ~ /ms$/ ? text + 0 : text * 1000 }
        $1 == "50.00%" { print "p50", milliseconds($3 $4) }
        $1 == "99.00%" { print "p99", milliseconds($3 $4) }
        $1 == "Requests/sec:" { print "rate", $2 }
        $3 == "responses" { if ($1 ~ /^\[2/) done += $2; else failed += $2 }
        END { print "done", done + 0; print "failed", failed + 0 }'
}

# A line of the times: when it began, the status, microseconds. Some clients of h2load are given up at its end: no failures.
understand_h2load() {
    awk '
        /^finished in/ { print "rate", $4 }
        /^requests:/ { done = $8; failed = $10 + $12 + $14 }
        /^status codes:/ { failed += $5 + $7 + $9 }
        END { print "done", done + 0; print "failed", failed + 0 }'
    [[ -s $work/times ]] || return 0
    cut -f3 "$work/times" | sort -n >"$work/sorted"
    awk -v count="$(wc -l <"$work/sorted")" '
        NR == int(count / 2) + 1 { print "p50", $1 / 1000 }
        NR == int(count * 0.99) + 1 { print "p99", $1 / 1000 }' "$work/sorted"
}
