#!/bin/sh
# Nothing of the stack starts the image like this: the operator brings its own program.
exec /usr/bin/pgbouncer /etc/pgbouncer/pgbouncer.ini
