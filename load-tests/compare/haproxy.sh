# HAProxy. shellcheck shell=bash

program=haproxy

supports() {
    # It cannot write its log to a file, and it carries no datagrams.
    [[ $scenario != full && $front != udp ]]
}

version() {
    haproxy -v | sed -n '1s/.*version \([^ ]*\).*/\1/p'
}

configure() {
    local mode=http bind='' server=''
    case $front in
    tcp) mode=tcp ;;
    https) bind="ssl crt $work/both.pem ssl-min-ver TLSv1.3 alpn h2,http/1.1" ;;
    esac
    case $behind in
    http) server="pool-max-conn 4096" ;;
    h2c) server="pool-max-conn 4096 proto h2" ;;
    esac
    {
        cat <<CONF
global
    nbthread 1
    maxconn 4000
defaults
    mode $mode
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
CONF
        [[ $mode == tcp ]] && echo "    option splice-auto" || echo "    http-reuse always"
        cat <<CONF
frontend web
    bind 127.0.0.1:$port backlog 8192 $bind
    default_backend app
backend app
    server one 127.0.0.1:$server_port $server
CONF
    } >"$work/haproxy.cfg"
    command=(haproxy -db -f "$work/haproxy.cfg")
}
