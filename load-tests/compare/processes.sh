# Programs: how they start, end, and what they used. shellcheck shell=bash

stop() { # PID
    [[ -n $1 ]] || return 0
    kill "$1" 2>/dev/null || return 0
    for _ in $(seq 50); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

family() { # PID: it and its children
    echo "$1" "$(pgrep -P "$1" | tr '\n' ' ')"
}

# Clock ticks that a program's processes have used.
ticks() { # PID
    local pid sum=0
    for pid in $(family "$1"); do
        sum=$((sum + $(sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }')))
    done
    echo "$sum"
}

resident_kib() { # PID
    local pid sum=0
    for pid in $(family "$1"); do
        sum=$((sum + $(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status")))
    done
    echo "$sum"
}

# Starts the proxy of which the file was read, on its core, and waits until it serves.
start_proxy() { # NAME
    command=()
    configure
    taskset -c 0 "${command[@]}" >"$work/$1.log" 2>&1 </dev/null &
    proxy_pid=$!
    for _ in $(seq 300); do
        serves && return
        kill -0 "$proxy_pid" 2>/dev/null || break
        sleep 0.1
    done
    echo "$1 does not serve $scenario" >&2
    tail -n 5 "$work/$1.log" >&2
    exit 1
}

serves() {
    case $front/$server in
    http/nginx | https/nginx)
        curl -kfso "$work/answer" --max-time 2 -H 'Host: host-5000.example' "$front://localhost:$port/" 2>/dev/null &&
            cmp -s "$work/answer" "$work/www/index.html"
        ;;
    https/grpc)
        curl -kfso "$work/answer" --http2 --max-time 2 -H 'Content-Type: application/grpc' -H 'TE: trailers' \
            --data-binary "@$work/message" "https://localhost:$port$path" 2>/dev/null && cmp -s "$work/answer" "$work/message"
        ;;
    http/*)
        # Without a wish for WebSocket its server says what it is.
        curl -fso /dev/null --max-time 2 "http://localhost:$port/" 2>/dev/null
        ;;
    *) "$gauge" load "$scenario" --target "127.0.0.1:$port" --seconds 1 --connections 1 2>/dev/null | grep -q '^done [1-9]' ;;
    esac
}
