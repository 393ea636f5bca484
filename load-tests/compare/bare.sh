# The smallest proxy that Pingora makes. shellcheck shell=bash

program=$bare

supports() {
    # In `full` it stands for the floor.
    [[ $front == http* ]]
}

version() {
    sed -n 's/^pingora = .*"=\([0-9.]*\)".*/\1/p' Cargo.toml
}

configure() {
    command=("$bare" "127.0.0.1:$port" "127.0.0.1:$server_port")
    [[ $front != https ]] || command+=(--certificate "$work/cert.pem" --key "$work/key.pem")
    [[ $behind != h2c ]] || command+=(--h2c)
}
