#!/usr/bin/env bash
# One Ceph node with an S3 gateway on this machine's loopback, from Debian's packages
# (ceph-mon ceph-osd radosgw ceph-common): radosgw.sh start FOLDER PORT, radosgw.sh stop FOLDER.
# One monitor, one disk that is a sparse file, no authentication inside, one user outside.
set -euo pipefail
action=$1 folder=$2
unset PYTHONPATH PYTHONHOME # `ceph` is a script of the system's Python, with that one's packages

wait_for() { # seconds, command...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "gave up on: $*" >&2; return 1; }
        sleep 0.2
    done
}

stop() {
    # Each daemon by the id that it wrote, and only while that id is still this daemon's.
    local file pid
    for file in "$folder"/run/*.pid; do
        [ -e "$file" ] || continue
        pid=$(cat "$file")
        if grep -qa -- "$folder/ceph.conf" "/proc/$pid/cmdline" 2>/dev/null; then
            kill -KILL "$pid"
        fi
    done
}

start() {
    local port=$1 monitor=$(($1 + 1)) id
    mkdir -p "$folder"/{run,log,mon,osd,rgw}
    id=$(cat /proc/sys/kernel/random/uuid)
    cat >"$folder/ceph.conf" <<CONF
[global]
fsid = $id
mon host = v1:127.0.0.1:$monitor
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
run dir = $folder/run
pid file = $folder/run/\$name.pid
admin socket = $folder/run/\$name.asok
log file = $folder/log/\$name.log
keyring = $folder/keyring
mon data avail crit = 1
mon allow pool size one = true
mon warn on pool no redundancy = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
osd memory target = 939524096
[mon.a]
mon data = $folder/mon
[osd.0]
osd data = $folder/osd
bluestore block size = 4294967296
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw data = $folder/rgw
CONF
    export CEPH_CONF=$folder/ceph.conf
    trap stop ERR
    monmaptool --create --addv a "[v1:127.0.0.1:$monitor]" --fsid "$id" "$folder/monmap"
    ceph-mon -c "$CEPH_CONF" -i a --mkfs --monmap "$folder/monmap"
    ceph-mon -c "$CEPH_CONF" -i a
    wait_for 60 ceph -c "$CEPH_CONF" --connect-timeout 5 status
    id=$(cat /proc/sys/kernel/random/uuid)
    ceph -c "$CEPH_CONF" osd new "$id"
    ceph-osd -c "$CEPH_CONF" -i 0 --mkfs --osd-uuid "$id"
    ceph-osd -c "$CEPH_CONF" -i 0
    radosgw -c "$CEPH_CONF" -n client.rgw.a
    wait_for 90 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"
    radosgw-admin -c "$CEPH_CONF" user create --uid=tests --display-name=tests \
        --access-key=testkey --secret-key=testsecret
}

case $action in
start) start "$3" >"$folder.log" 2>&1 || { tail -20 "$folder.log" >&2; exit 1; } ;;
stop) stop ;;
*) echo "start or stop" >&2; exit 2 ;;
esac
