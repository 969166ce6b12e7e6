# Starts a server. It never takes mastership for itself: it asks the sentinels first, and where they name it although
# it comes back empty, it stays silent until they have chosen another that still has the data.

. /etc/valkey/common.sh

SILENT_SECONDS=60 # Sentinels that chose nobody in this time will not: an empty master is better than none.
UNHEARD_ROUNDS=5  # A server that answered none of these is taken for gone, and what it had with it.

# knows_more ADDRESS: true for a master, and for a replica that has ever been in step with one. 1 is the offset of a
# replica that never was. Sets `answered`.
knows_more() {
    told=$(ask "$1" 6379 INFO replication)
    answered=no
    [ -z "$told" ] || answered=yes
    [ "$(echo "$told" | field role)" = master ] && return 0
    offset=$(echo "$told" | field slave_repl_offset)
    [ "${offset:-1}" -gt 1 ]
}

# may_begin: whether nobody else has anything that this server would lack.
may_begin() {
    unheard=0
    for other in $server_addresses; do
        [ "$other" = "$mine" ] && continue
        if knows_more "$other"; then
            rounds=0
            return 1
        fi
        [ "$answered" = yes ] || unheard=1
    done
    [ "$unheard" = 1 ] || return 0
    rounds=$((rounds + 1))
    [ "$rounds" -ge "$UNHEARD_ROUNDS" ]
}

# Waits for the sentinels' word and sets `master`.
await_word() {
    rounds=0 named_since='' waiting=''
    while :; do
        if master=$(agreed); then
            [ "$master" = "$mine" ] || return 0
            now=$(date +%s)
            : "${named_since:=$now}"
            if may_begin; then
                say 'named as master, and nobody has more: beginning empty'
                return 0
            fi
            if [ $((now - named_since)) -ge "$SILENT_SECONDS" ]; then
                say "named as master for $SILENT_SECONDS s: beginning empty"
                return 0
            fi
            state='named as master, but empty: silent until another is chosen'
        else
            named_since=''
            state='no two sentinels agree on a master yet'
        fi
        [ "$state" = "$waiting" ] || say "$state"
        waiting=$state
        sleep 1
    done
}

resolve_all
rm -f /data/*.rdb
await_word
{
    echo 'include /etc/valkey/server.conf'
    echo "requirepass $(quoted)"
    echo "masterauth $(quoted)"
    echo "replica-announce-ip $mine"
    if [ "$master" != "$mine" ]; then
        say "following $master"
        echo "replicaof $master 6379"
    fi
} > "$RUN/server.conf"
exec valkey-server "$RUN/server.conf"
