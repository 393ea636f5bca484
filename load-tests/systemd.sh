#!/usr/bin/env bash
# The service under a real systemd: boots a small Debian as a container, installs the program with the commands of the README, and tries
# what an operator does: reload, upgrade, rotation of logs, crash, hang, wrong configuration, socket activation, stop.
#
#   load-tests/systemd.sh           about two minutes; the first time, Debian's packages are fetched
#
# Needs root, debootstrap and util-linux, and nothing of systemd on this machine. Namespaces of its own keep it to itself: processes, mounts
# and network. PORTCULLIS_BIN and DRILL_BIN name the programs (default: those of `make test`); the container lies in SYSTEMD_ROOT
# (default: target/systemd-root) and is kept. Ends with 0 if all held.
set -euo pipefail
cd "$(dirname "$0")/.."

portcullis=$(realpath "${PORTCULLIS_BIN:-target/debug/portcullis}")
drill=$(realpath "${DRILL_BIN:-target/debug/examples/drill}")
root=$(realpath -m "${SYSTEMD_ROOT:-target/systemd-root}")
init=

for program in debootstrap unshare nsenter; do
    command -v "$program" >/dev/null || { echo "$program is not installed" >&2; exit 1; }
done
[[ $(id -u) == 0 ]] || { echo "root is needed to boot a container" >&2; exit 1; }

if [[ ! -e $root/.complete ]]; then
    rm -rf "$root"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,logrotate,curl,procps,sudo,python3-minimal \
        bookworm "$root" >"${root}.log" 2>&1 || { tail -n 5 "${root}.log" >&2; exit 1; }
    touch "$root/.complete"
fi
# As nobody has installed anything before.
rm -rf "$root"/etc/portcullis "$root"/var/{log,lib}/portcullis "$root"/etc/systemd/system/*portcullis* \
    "$root"/etc/systemd/system/*/portcullis* "$root"/etc/{sysusers,tmpfiles}.d/portcullis.conf "$root"/etc/logrotate.d/portcullis
mkdir -p "$root/src/target/dist"
cp -r README.md conf systemd load-tests "$root/src/"
cp "$portcullis" "$root/src/target/dist/portcullis"
cp "$drill" "$root/usr/local/bin/drill"
echo "127.0.0.1 localhost drillbox" >"$root/etc/hosts"

cgroup=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
[[ -n $cgroup ]] || { echo "there is no cgroup2 hierarchy" >&2; exit 1; }
mkdir -p "$cgroup/portcullis-drill"

# Runs as the container's first process. Everything mounted here is gone with it.
boot() {
    hostname drillbox
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    mkdir "$root/dev/pts" "$root/dev/shm"
    for device in null zero full random urandom tty; do
        [[ -e /dev/$device ]] || continue
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    for number in 0 1 2; do ln -s "fd/$number" "$root/dev/$(cut -d' ' -f$((number + 1)) <<<'stdin stdout stderr')"; done
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mkdir -p "$root/old"
    cd "$root"
    pivot_root . old
    umount -l /old
    exec env -i container=drill PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target
}
export root
export -f boot
(
    echo "$BASHPID" >"$cgroup/portcullis-drill/cgroup.procs"
    exec unshare --pid --fork --kill-child --mount --net --uts --ipc --cgroup --propagation private bash -euc boot
) </dev/null >"${root}.log" 2>&1 &
outer=$!

finish() {
    local code=$?
    kill -KILL "$outer" 2>/dev/null || true
    wait "$outer" 2>/dev/null || true
    [[ $code -eq 0 ]] || echo "the container is kept: $root, its console: ${root}.log" >&2
    # The kernel removes the processes a moment later.
    for _ in $(seq 50); do
        find "$cgroup/portcullis-drill" -depth -type d -exec rmdir {} \; 2>/dev/null || true
        [[ -d $cgroup/portcullis-drill ]] || break
        sleep 0.1
    done
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

inside() {
    nsenter -t "$init" --pid --mount --net --uts --ipc --cgroup --root --wd \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb "$@"
}
for _ in $(seq 100); do
    init=$(pgrep -P "$outer" || true)
    [[ -n $init ]] && [[ $(inside systemctl is-system-running 2>/dev/null) == running ]] && break
    kill -0 "$outer" 2>/dev/null || { cat "${root}.log" >&2; exit 1; }
    sleep 0.2
done
inside ip link set lo up 2>/dev/null || nsenter -t "$init" --net ip link set lo up
inside bash /src/load-tests/systemd/inside.sh
