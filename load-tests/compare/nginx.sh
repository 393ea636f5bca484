# nginx. shellcheck shell=bash

program=nginx

# TCP and UDP need the module "stream", which is built in, a file beside it, or missing.
stream_module() {
    local built
    built=$(nginx -V 2>&1)
    case $built in
    *--with-stream=dynamic*) sed -n 's/.*--modules-path=\([^ ]*\).*/\1\/ngx_stream_module.so/p' <<<"$built" ;;
    *--with-stream*) echo built-in ;;
    esac
}

supports() {
    case $front in
    tcp | udp)
        local module
        module=$(stream_module)
        [[ $module == built-in || -e $module ]]
        ;;
    esac
}

version() {
    nginx -v 2>&1 | sed 's/.*\///'
}

configure() {
    mkdir -p "$work/nginx"
    local module=''
    module=$(stream_module)
    [[ $module != built-in && -e $module && $front != http* ]] && module="load_module $module;" || module=''
    {
        echo "$nginx_user daemon off; worker_processes 1; pid $work/nginx/pid; error_log $work/nginx/error.log; $module"
        echo "events { worker_connections 16384; }"
        case $front in
        tcp) echo "stream { server { listen 127.0.0.1:$port backlog=8192; proxy_pass 127.0.0.1:$server_port; } }" ;;
        udp) echo "stream { server { listen 127.0.0.1:$port udp; proxy_pass 127.0.0.1:$server_port; } }" ;;
        *) nginx_http ;;
        esac
    } >"$work/nginx.conf"
    command=(nginx -p "$work/nginx" -c "$work/nginx.conf")
}

nginx_http() {
    local more='' servers listen="listen 127.0.0.1:$port backlog=8192;"
    local location="proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host \$host;"
    [[ $scenario != websocket ]] || location="${location/\'\'/upgrade} proxy_set_header Upgrade \$http_upgrade;"
    [[ $behind != h2c ]] || location="grpc_pass grpc://backend;"
    if [[ $front == https ]]; then
        listen="listen 127.0.0.1:$port ssl http2 backlog=8192; ssl_protocols TLSv1.3;
            ssl_certificate $work/cert.pem; ssl_certificate_key $work/key.pem;"
    fi
    servers="server { $listen location / { $location } }"
    if [[ $scenario == full ]]; then
        more="server_names_hash_max_size 65536; server_names_hash_bucket_size 128;
            log_format json escape=json '{\"time\":\"\$time_iso8601\",\"client\":\"\$remote_addr\",\"request\":\"\$request\",\"status\":\$status,\"bytes\":\$body_bytes_sent,\"duration\":\$request_time,\"host\":\"\$host\",\"upstream\":\"\$upstream_addr\"}';
            access_log $work/nginx/access.log json buffer=64k flush=1s;
            limit_req_zone \$binary_remote_addr zone=clients:10m rate=1000000r/s;"
        servers=$(seq 10000 | awk -v listen="127.0.0.1:$port" -v location="$location" '{
            printf "server { listen %s; server_name host-%d.example; location / { limit_req zone=clients burst=1000000 nodelay; add_header X-Frame-Options DENY; proxy_set_header X-Gateway compare; %s } }\n", listen, $1, location }')
    fi
    cat <<CONF
http {
    access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
    client_body_temp_path $work/nginx/body; proxy_temp_path $work/nginx/proxy;
    $more
    upstream backend { server 127.0.0.1:$server_port; keepalive 4096; keepalive_requests 1000000000; }
    $servers
}
CONF
}
