# Traefik. shellcheck shell=bash

program=traefik

supports() {
    true
}

version() {
    traefik version | sed -n 's/^Version: *//p'
}

configure() {
    write_routing "$work/traefik-dynamic.yaml"
    {
        echo "global: { checkNewVersion: false, sendAnonymousUsage: false }"
        static_settings "$work/traefik-dynamic.yaml" "$work/traefik-access.log"
    } >"$work/traefik.yaml"
    command=(env GOMAXPROCS=1 traefik "--configFile=$work/traefik.yaml")
}
