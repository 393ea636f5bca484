# Caddy. shellcheck shell=bash

program=caddy

supports() {
    # It has no rate limit, and neither TCP nor UDP, without plug-ins.
    [[ $scenario != full && $front == http* ]]
}

version() {
    caddy version | cut -d' ' -f1
}

configure() {
    local tls='' versions=''
    [[ $front != https ]] || tls="tls $work/cert.pem $work/key.pem {
        protocols tls1.3
    }"
    [[ $behind != h2c ]] || versions='versions h2c 2'
    cat >"$work/Caddyfile" <<CONF
{
    admin off
    auto_https off
    log {
        level ERROR
    }
}
$front://:$port {
    bind 127.0.0.1
    $tls
    reverse_proxy 127.0.0.1:$server_port {
        transport http {
            keepalive_idle_conns 4096
            keepalive_idle_conns_per_host 4096
            $versions
        }
    }
}
CONF
    command=(env GOMAXPROCS=1 XDG_DATA_HOME="$work" XDG_CONFIG_HOME="$work" caddy run --config "$work/Caddyfile" --adapter caddyfile)
}
