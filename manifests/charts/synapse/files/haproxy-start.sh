#!/bin/sh
# Runs HAProxy, master and worker, and has it read its certificates again when they change: a new worker takes the
# listening sockets over, the old one keeps its connections until they end. It uses what is in upstream's image only.
# The rest of the configuration stays as it was when the container started: a change of that makes new pods.
set -eu
state=/var/lib/haproxy

certificates() { cat /tls/* 2>/dev/null | sha256sum; }

# Nothing is known yet, in the format of `show servers state`.
echo 1 >"$state/servers"
known=$(certificates)
haproxy -W -db -f /usr/local/etc/haproxy/haproxy.cfg &
master=$!
trap 'kill -USR1 "$master"' USR1
trap 'kill -TERM "$master"' TERM

while sleep "${1:-5}"; do
    now=$(certificates)
    [ "$now" != "$known" ] || continue
    known=$now
    # Without this the new worker would know no process until DNS has answered, and refuse everything till then.
    echo 'show servers state' | socat -t 5 - "UNIX-CONNECT:$state/control" >"$state/servers.new" &&
        cat "$state/servers.new" >"$state/servers" || echo 'the state of the servers is not handed over' >&2
    kill -USR2 "$master"
done &

# A signal ends this wait, too; the master has gone when it cannot be signalled any more.
status=0
wait "$master" || status=$?
while kill -0 "$master" 2>/dev/null; do
    status=0
    wait "$master" || status=$?
done
exit "$status"
