# Before a server is stopped on purpose: if it is the master, another one takes over first, with all data.

. /etc/valkey/common.sh

resolved
[ "$(agreed)" = "$mine" ] || exit 0
for sentinel in $sentinel_addresses; do
    [ "$(ask "$sentinel" 26379 SENTINEL FAILOVER "$MASTER_NAME")" != OK ] || break
done
tries=0
while [ "$tries" -lt 10 ] && [ "$(agreed)" = "$mine" ]; do
    tries=$((tries + 1))
    sleep 1
done
# Until the proxies have seen it too.
sleep 2
