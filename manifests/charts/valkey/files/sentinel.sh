# Starts a sentinel. It stores nothing, so it learns at each start who the master is: from the other sentinels, else
# from the servers, else, when nobody knows anything, it is the first server, as every sentinel would say then.

. /etc/valkey/common.sh

LOOK_SECONDS=5      # How long others are asked before nobody is taken to know anything.
ELECTION_SECONDS=10 # Sentinel's own bound for an election: min(10 s, failover-timeout).

# from_sentinels: sets `master` and `epoch` to the newest that another sentinel knows.
from_sentinels() {
    master='' epoch=-1
    for other in $sentinel_addresses; do
        [ "$other" = "$mine" ] && continue
        told=$(ask "$other" 26379 SENTINEL MASTER "$MASTER_NAME")
        there=$(echo "$told" | sed -n '/^ip$/{n;p;q;}')
        at=$(echo "$told" | sed -n '/^config-epoch$/{n;p;q;}')
        if is_server "$there" && [ "${at:-0}" -gt "$epoch" ]; then
            master=$there epoch=$at
        fi
    done
    [ -n "$master" ]
}

# from_servers: sets `master` to the one that most servers follow or are; the first of equals.
from_servers() {
    votes='' master='' most=0 epoch=0
    for server in $server_addresses; do
        told=$(ask "$server" 6379 INFO replication)
        case "$(echo "$told" | field role)" in
            master) votes="$votes $server" ;;
            slave) votes="$votes $(echo "$told" | field master_host)" ;;
        esac
    done
    for server in $server_addresses; do
        count=0
        for vote in $votes; do
            [ "$vote" != "$server" ] || count=$((count + 1))
        done
        if [ "$count" -gt "$most" ]; then
            master=$server most=$count
        fi
    done
    [ -n "$master" ]
}

learn() {
    tries=0
    until from_sentinels || from_servers; do
        tries=$((tries + 1))
        if [ "$tries" -ge "$LOOK_SECONDS" ]; then
            # shellcheck disable=SC2086 # a list
            master=$(first $server_addresses) epoch=0
            say "nobody knows a master: $master"
            return
        fi
        sleep 1
    done
    say "the master is $master, epoch $epoch"
}

# identity NAME: the same for a sentinel each time it starts, so that the others never count it twice.
identity() {
    printf %s "$1" | sha1sum | cut -c 1-40
}

# The nth of two lists belong together.
others() {
    # shellcheck disable=SC2086 # a list
    set -- $sentinel_addresses
    for name in $SENTINELS; do
        [ "$1" = "$mine" ] || echo "sentinel known-sentinel $MASTER_NAME $1 26379 $(identity "$name")"
        shift
    done
}

resolve_all
learn
if [ "$epoch" -gt 0 ]; then
    # What it voted before it was started anew is forgotten: nobody may get a second vote in the same election.
    sleep "$ELECTION_SECONDS"
    learn
fi
{
    cat /etc/valkey/sentinel.conf
    echo "requirepass $(quoted)"
    echo "sentinel sentinel-pass $(quoted)"
    echo "sentinel myid $(identity "$ME")"
    echo "sentinel announce-ip $mine"
    echo "sentinel announce-port 26379"
    echo "sentinel monitor $MASTER_NAME $master 6379 2"
    echo "sentinel auth-pass $MASTER_NAME $(quoted)"
    echo "sentinel down-after-milliseconds $MASTER_NAME $DOWN_AFTER_MILLISECONDS"
    echo "sentinel failover-timeout $MASTER_NAME $FAILOVER_TIMEOUT_MILLISECONDS"
    echo "sentinel parallel-syncs $MASTER_NAME 1"
    echo "sentinel config-epoch $MASTER_NAME $epoch"
    echo "sentinel leader-epoch $MASTER_NAME $epoch"
    echo "sentinel current-epoch $epoch"
    # All are known beforehand: a master that nobody has ever seen can be replaced too.
    for server in $server_addresses; do
        [ "$server" = "$master" ] || echo "sentinel known-replica $MASTER_NAME $server 6379"
    done
    others
} > "$RUN/sentinel.conf"
exec valkey-sentinel "$RUN/sentinel.conf"
