# Portcullis. shellcheck shell=bash

program=$portcullis

supports() {
    true
}

version() {
    sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1
}

configure() {
    write_routing "$work/dynamic.yaml"
    {
        echo "threads: 1"
        echo "control: { socket: $work/control.sock }"
        static_settings "$work/dynamic.yaml" "$work/access.log"
    } >"$work/static.yaml"
    command=("$portcullis" run "--configFile=$work/static.yaml")
}
