#!/bin/sh
# Options or a configuration file alone mean valkey-server; root gives its data away and drops to valkey.
set -e

case "$1" in
    -* | *.conf) set -- valkey-server "$@" ;;
esac

if [ "$1" = valkey-server ] && [ "$(id -u)" = 0 ]; then
    chown -R valkey:valkey .
    exec setpriv --reuid=valkey --regid=valkey --clear-groups -- "$0" "$@"
fi

# Snapshots hold everything that was published: not for other users unless the caller chose a mask.
if [ "$(umask)" = 0022 ]; then
    umask 0077
fi

# shellcheck disable=SC2086 # several options in one variable, as upstream has it
exec "$@" $VALKEY_EXTRA_FLAGS
