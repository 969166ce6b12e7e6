#!/bin/sh
# haproxy, or options alone, runs as master and worker in the foreground; anything else runs as it is.
set -e

case "$1" in
    -*) set -- haproxy "$@" ;;
esac

if [ "$1" = haproxy ]; then
    shift
    set -- haproxy -W -db "$@"
fi

exec "$@"
