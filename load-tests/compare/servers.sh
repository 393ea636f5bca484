# The servers behind the proxies. shellcheck shell=bash

# nginx as root would let its workers read as nobody.
nginx_user=
((EUID)) || nginx_user='user root;'

write_files() {
    mkdir -p "$work/www"
    head -c 68 /dev/zero | tr '\0' x >"$work/www/index.html"
    head -c 1024 /dev/zero | tr '\0' x >"$work/www/1k"
    head -c 102400 /dev/zero | tr '\0' x >"$work/www/100k"
}

write_certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=compare \
        -addext 'subjectAltName=DNS:host-5000.example,DNS:localhost,IP:127.0.0.1' \
        -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
    cat "$work/cert.pem" "$work/key.pem" >"$work/both.pem"
}

write_server() {
    mkdir -p "$work/server"
    cat >"$work/server.conf" <<END
$nginx_user
daemon off; worker_processes 1; pid $work/server/pid; error_log $work/server/error.log;
events { worker_connections 8192; }
http {
    access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; client_body_temp_path $work/server/body;
    open_file_cache max=16; sendfile on; tcp_nopush on;
    server {
        listen 127.0.0.1:$server_port backlog=8192 reuseport;
        root $work/www;
        location = /post { client_max_body_size 1m; client_body_buffer_size 64k; return 200 "taken\n"; }
    }
}
END
}

# Starts the server of the scenario, if it is not the one that runs. Each proxy finds it at the same place.
start_server() {
    [[ $server != "$running_server" ]] || return 0
    stop "$server_pid"
    local command=("$gauge" serve "$server" --listen "127.0.0.1:$server_port")
    if [[ $server == nginx ]]; then
        write_server
        command=(nginx -p "$work/server" -c "$work/server.conf")
    fi
    taskset -c 1 "${command[@]}" >"$work/server.log" 2>&1 </dev/null &
    server_pid=$! running_server=$server
    sleep 0.3
    kill -0 "$server_pid" 2>/dev/null || { echo "the server does not run: $(tail -n 3 "$work/server.log")" >&2 && exit 1; }
}
