#!/usr/bin/env bash
# What load-tests/systemd.sh does inside its container. Ends at the first thing that does not hold.
set -euo pipefail
cd /src

fail() {
    echo "FAILED: $*" >&2
    systemctl status portcullis --no-pager --lines 20 >&2 || true
    exit 1
}
property() { systemctl show portcullis --property "$1" --value; }
main() { property MainPID; }
processes() { wc -w </sys/fs/cgroup/system.slice/portcullis.service/cgroup.procs; }
# within SECONDS COMMAND…: waits until it holds.
within() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < until)) || fail "not in time: $*"
        sleep 0.1
    done
}
answers() { [[ $(curl -s -o /dev/null -m 5 -w '%{http_code}' "http://127.0.0.1:${1:-8000}/nonce/x") == 200 ]]; }
main_is() { [[ $(main) == "$1" ]]; }
main_is_not() { [[ $(main) != "$1" && $(main) != 0 ]]; }
state_is() { [[ $(property ActiveState) == "$1" ]]; }
alone() { (($(processes) == 1)); }
passed() { printf '%3d s  %s\n' "$SECONDS" "$*"; }

# The commands as they stand in the README; what was built is there already.
commands=$(sed -n '/^## Installing it as a service/,/^Routers/ s/^\$ //p' README.md | sed 's/^make dist && //')
[[ $(wc -l <<<"$commands") -ge 4 ]] || fail "the README has no commands"
bash -euo pipefail -c "$commands" >/tmp/install 2>&1 || { cat /tmp/install >&2; fail "the README's commands"; }
state_is active || fail "not active after the installation"
curl -sf http://127.0.0.1:8080/ping >/dev/null || fail "no ping"
passed "installed with the README's commands, started, pings"

exposure=$(systemd-analyze security portcullis --no-pager | sed -n 's/.*Overall exposure level for .*: \([0-9.]*\).*/\1/p')
awk "BEGIN { exit !($exposure <= 2.0) }" || fail "exposure $exposure"
passed "exposure $exposure"

cat >/etc/portcullis/dynamic.d/drill.yaml <<'Y'
http:
  routers: {drill: {rule: 'PathPrefix(`/`)', entryPoints: [web], service: origin, middlewares: [generation]}}
  middlewares: {generation: {headers: {customResponseHeaders: {X-Generation: "1"}}}}
  services: {origin: {loadBalancer: {servers: [{url: 'http://127.0.0.1:9900'}]}}}
Y
sed -i 's|^\[accessLog\]|&\nfilePath = "/var/log/portcullis/access.log"|' /etc/portcullis/portcullis.toml
systemd-run --quiet --unit=origin /usr/local/bin/drill origin --listen 127.0.0.1:9900
systemctl restart portcullis
within 10 answers

drill load --target 127.0.0.1:8000 --origin 127.0.0.1:9900 --seconds 25 --websocket 3 >/tmp/table &
load=$!
systemctl reload portcullis || fail "reload"
old=$(main)
systemctl kill --kill-whom=main --signal=USR2 portcullis
within 15 main_is_not "$old"
systemctl reload portcullis || fail "reload of the new process"
within 15 alone
old=$(main)
portcullis upgrade >/dev/null || fail "upgrade"
main_is_not "$old" || fail "systemd does not follow"
new=$(main)
kill -KILL "$new"
within 10 main_is "$old"
systemctl reload portcullis || fail "reload after the new process died"
mv /usr/bin/portcullis /usr/bin/portcullis.good
printf '#!/bin/sh\nexit 3\n' >/usr/bin/portcullis && chmod 755 /usr/bin/portcullis
! portcullis.good upgrade 2>/dev/null || fail "a bad successor was accepted"
main_is "$old" || fail "a bad successor is the main process"
mv /usr/bin/portcullis.good /usr/bin/portcullis
wait "$load" || lost=1
cat /tmp/table
lost=$(sed -n 's/^done: .*, failed: //p' /tmp/table)
# What the killed process had accepted is lost with it.
((lost <= 60)) || fail "$lost requests"
[[ $(property NRestarts) == 0 ]] || fail "systemd has restarted it"
passed "reloads, upgrades, a dead successor and a bad one: systemd follows; $lost requests lost with the one that was killed"

install -D -m 644 -t /etc/logrotate.d systemd/logrotate.d/portcullis
drill load --target 127.0.0.1:8000 --origin 127.0.0.1:9900 --seconds 4 --slow 5 --websocket 1 >/tmp/table &
load=$!
sleep 1
portcullis upgrade >/dev/null || fail "upgrade"
(($(processes) == 2)) || fail "the old process does not drain"
logrotate -f /etc/logrotate.d/portcullis || fail "logrotate"
all_write_anew() {
    local pid
    for pid in $(</sys/fs/cgroup/system.slice/portcullis.service/cgroup.procs); do
        [[ -z $(find "/proc/$pid/fd" -lname '*/access.log.1' 2>/dev/null) ]] || return 1
    done
}
within 5 all_write_anew
wait "$load" || { cat /tmp/table; fail "requests were lost while logs were rotated"; }
passed "logs are rotated under both processes of an upgrade"

drill load --target 127.0.0.1:8000 --origin 127.0.0.1:9900 --seconds 2 --keep-alive 1 --new-connection 1 --post 1 --websocket 0 >/tmp/table &
load=$!
sleep 1.5
portcullis upgrade >/dev/null || fail "upgrade"
# No more requests begin, and the slow ones of both processes take a while yet.
sleep 1
(($(processes) == 2)) || fail "the old process does not drain"
systemctl stop portcullis
wait "$load" || { cat /tmp/table; fail "a stop has cut requests"; }
state_is inactive || fail "not stopped"
passed "a stop waits for the requests of both processes"

systemctl start portcullis
old=$(main)
kill -KILL "$old"
within 10 main_is_not "$old"
within 10 answers
passed "a crash is followed by a start"
old=$(main)
kill -STOP "$old"
within 60 main_is_not "$old"
within 10 answers
passed "a hang is noticed by the watchdog"

cp /etc/portcullis/portcullis.toml /tmp/good.toml
echo 'entryPoints = 7' >/etc/portcullis/portcullis.toml
! portcullis upgrade 2>/dev/null || fail "an upgrade to a wrong configuration"
answers || fail "it hurts"
systemctl stop portcullis
! systemctl start portcullis 2>/dev/null || fail "a wrong configuration starts"
[[ $(property ExecMainStatus) == 78 ]] || fail "exit code $(property ExecMainStatus)"
sleep 2
state_is failed || fail "it was started again with the same configuration"
cp /tmp/good.toml /etc/portcullis/portcullis.toml
systemctl reset-failed portcullis
python3 -c 'import socket, time
taken = socket.socket(socket.AF_INET6)
taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
taken.bind(("::", 8000)); taken.listen(1); time.sleep(4)' &
sleep 0.5
systemctl start --no-block portcullis
within 15 state_is active
within 10 answers
passed "a wrong configuration is not tried again, a taken port is"

systemctl stop portcullis
systemctl reset-failed portcullis
sed -i 's|address = ":8000"|address = ":80"|' /etc/portcullis/portcullis.toml
mkdir -p /etc/systemd/system/portcullis.service.d
# As the unit's comment says.
sed -n '/in a drop-in:/,/^[^#]/ s/^#   //p' systemd/portcullis.service >/etc/systemd/system/portcullis.service.d/activated.conf
grep -q PrivateUsers /etc/systemd/system/portcullis.service.d/activated.conf || fail "the unit's comment has no drop-in"
install -D -m 644 -t /etc/systemd/system systemd/portcullis.socket
systemctl daemon-reload
systemctl enable --quiet --now portcullis.socket
answers 80 || fail "the first connection does not start it"
grep -q '^CapBnd:.*0000000000000000' "/proc/$(main)/status" || fail "it has capabilities"
portcullis upgrade >/dev/null || fail "upgrade without capabilities"
for _ in 1 2 3; do
    systemctl restart portcullis &
    for _ in 1 2 3 4 5 6; do answers 80 || fail "a restart has refused a connection"; done
    wait $!
done
passed "with systemd's socket: no capability, no refusal in a restart"
systemctl stop portcullis.socket portcullis
echo "all of it holds"
