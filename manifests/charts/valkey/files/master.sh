# For people and tests: prints the name of the server that two sentinels name as the master.

. /etc/valkey/common.sh

resolved
master=$(agreed) || {
    echo 'no two sentinels agree on a master' >&2
    exit 1
}
# shellcheck disable=SC2086 # a list
set -- $server_addresses
for name in $SERVERS; do
    [ "$1" != "$master" ] || echo "$name"
    shift
done
