#!/usr/bin/env bash
# Builds the gateway optimised by a profile of real load: target/pgo/portcullis.
#
#   load-tests/pgo.sh [SECONDS]      seconds of load in each training scenario, 10 by default
#
# Three steps: a build that counts, load on it (the scenarios of compare.sh), a build that knows the counts. The training needs what
# compare.sh needs. llvm-profdata must be of the compiler's LLVM or near it: LLVM_PROFDATA names one, else the compiler's own
# (rustup component llvm-tools) or the newest of the system is taken.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-10}
host=$(rustc -vV | sed -n 's/^host: //p')
profdata=${LLVM_PROFDATA:-}
if [[ -z $profdata ]]; then
    own=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
    if [[ -x $own ]]; then
        profdata=$own
    else
        profdata=$(compgen -c llvm-profdata | sort -uV | tail -n 1)
    fi
fi
[[ -n $profdata ]] || { echo "llvm-profdata is missing: rustup component add llvm-tools, or apt-get install llvm-19" >&2 && exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/pgo.XXXXXX")
trap 'rm -rf "$work"' EXIT
# `--target` keeps the flags away from build scripts and procedural macros, whose profiles nobody wants.
build() {
    RUSTFLAGS=$1 cargo build --locked --profile dist --features mimalloc --target "$host" --target-dir target/pgo-build --bin portcullis
    cp "target/pgo-build/$host/dist/portcullis" "$2"
}

build "-Cprofile-generate=$work/counts" "$work/counting"
cargo build --locked --release --example gauge
# A process writes its counts when it ends by itself, which compare.sh lets it do. The other proxies in the comparison are not needed.
PORTCULLIS_BIN=$work/counting BARE_BIN=/bin/true GAUGE_BIN=target/release/examples/gauge \
    load-tests/compare.sh --proxy portcullis --rounds 1 --seconds "$seconds" --name training
rm -f load-tests/results/training.md
compgen -G "$work/counts/*.profraw" >/dev/null || { echo "the training left no counts" >&2 && exit 1; }
"$profdata" merge -o "$work/profile" "$work"/counts/*.profraw

mkdir -p target/pgo
build "-Cprofile-use=$work/profile -Cllvm-args=-pgo-warn-missing-function=false" target/pgo/portcullis
echo "built: target/pgo/portcullis"
