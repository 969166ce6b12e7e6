# A sentinel that the two others contradict for long is started anew, and then learns from them.

. /etc/valkey/common.sh

resolved
[ "$(ask 127.0.0.1 26379 PING)" = PONG ] || exit 1
own=$(named_by 127.0.0.1)
theirs=''
for other in $sentinel_addresses; do
    [ "$other" = "$mine" ] && continue
    said=$(named_by "$other") || exit 0
    : "${theirs:=$said}"
    [ "$said" = "$theirs" ] || exit 0
done
[ "$own" = "$theirs" ]
