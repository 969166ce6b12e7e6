# Starts HAProxy with what is only known here: the addresses of the Services, and the password, both as environment
# that its configuration sets for itself. DNS is asked now and never again: Services keep their addresses.

. /usr/local/etc/haproxy/settings.sh

trap 'exit 143' TERM INT USR1

address() {
    until found=$(getent hosts "$1.$NAMESPACE"); do
        echo "no address of $1 yet" >&2
        sleep 1
    done
    echo "${found%%[[:space:]]*}"
}

hex() {
    od -An -v -tx1 | tr -d ' \n'
}

# numbered VARIABLE SERVICE…: one setting for each.
numbered() {
    variable=$1 number=0
    shift
    for name in "$@"; do
        echo "    setenv ${variable}_$number $(address "$name")"
        number=$((number + 1))
    done
}

umask 077
password=$(cat /secrets/auth/password)
length=$(printf %s "$password" | wc -c)
{
    echo global
    # shellcheck disable=SC2086 # lists
    numbered SERVER $SERVERS
    # shellcheck disable=SC2086
    numbered SENTINEL $SENTINELS
    # AUTH as the protocol writes it, so that any password is one word.
    printf '    setenv AUTH %s\n' "$(printf '*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n' "$length" "$password" | hex)"
} > /run/haproxy/pod.cfg
exec haproxy -db -f /run/haproxy/pod.cfg -f /usr/local/etc/haproxy/haproxy.cfg
