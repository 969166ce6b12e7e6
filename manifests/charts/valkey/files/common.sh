# Sourced by the other scripts. POSIX sh for dash and BusyBox. settings.sh is rendered by the chart.
# Two sentinels of three decide everything: what one alone says is nothing.

. /etc/valkey/settings.sh

# The shell is the container's first process, and such a one ignores what it does not ask for.
trap 'exit 143' TERM INT

RUN=/run/valkey
ME=$(cat /proc/sys/kernel/hostname)
PASSWORD=$(cat /secrets/auth/password)

say() {
    printf '%s %s: %s\n' "$(date -u +%FT%TZ)" "$ME" "$*" >&2
}

# address SERVICE: its address, as soon as DNS knows it. Services keep theirs for as long as they exist, so names are
# asked here and never again: a sentinel that waits for a lost DNS server takes itself out for half a minute (TILT).
# With the namespace, because the bare name is the pod's own in its hosts file, and another address.
address() {
    until found=$(getent hosts "$1.$NAMESPACE"); do
        say "no address of $1 yet"
        sleep 1
    done
    echo "${found%%[[:space:]]*}"
}

# Asks DNS and keeps the answers for the probes.
resolve_all() {
    umask 077
    server_addresses='' sentinel_addresses=''
    for name in $SERVERS; do
        server_addresses="$server_addresses $(address "$name")"
    done
    for name in $SENTINELS; do
        sentinel_addresses="$sentinel_addresses $(address "$name")"
    done
    mine=$(address "$ME")
    printf "server_addresses='%s'\nsentinel_addresses='%s'\nmine='%s'\n" \
        "$server_addresses" "$sentinel_addresses" "$mine" > "$RUN/addresses.sh"
}

# What the running container resolved when it started.
resolved() {
    . "$RUN/addresses.sh"
}

# ask HOST PORT COMMAND…: the answer; nothing when there is none within two seconds.
ask() {
    host=$1 port=$2
    shift 2
    # shellcheck disable=SC2086 # several options or none
    REDISCLI_AUTH=$PASSWORD timeout 2 valkey-cli --no-auth-warning $CLIENT_OPTIONS -h "$host" -p "$port" "$@" 2> /dev/null |
        tr -d '\r'
}

# quoted: the password as a configuration file takes it, whatever is in it.
quoted() {
    printf '"%s"' "$(printf %s "$PASSWORD" | od -An -v -tx1 | tr -d '\n' | sed 's/  */\\x/g')"
}

# is_server ADDRESS: whether it is one of ours; an error message is not.
is_server() {
    case " $server_addresses " in
        *" ${1:-none} "*) return 0 ;;
        *) return 1 ;;
    esac
}

# named_by SENTINEL: the server that this sentinel names as the master, or nothing.
named_by() {
    named=$(ask "$1" 26379 SENTINEL GET-MASTER-ADDR-BY-NAME "$MASTER_NAME" | head -n 1)
    is_server "$named" && echo "$named"
}

# agreed: the server that two sentinels name; fails when no two name the same.
agreed() {
    heard=''
    for sentinel in $sentinel_addresses; do
        said=$(named_by "$sentinel") || continue
        case " $heard " in
            *" $said "*)
                echo "$said"
                return 0
                ;;
        esac
        heard="$heard $said"
    done
    return 1
}

# first WORD…
first() {
    echo "$1"
}

# field NAME: the value of one line of INFO on standard input.
field() {
    sed -n "s/^$1://p"
}
