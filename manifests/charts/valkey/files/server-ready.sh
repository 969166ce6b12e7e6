# Ready: the master, or a replica that is in step with it. A roll-out waits for this before it takes the next server.

. /etc/valkey/common.sh

told=$(ask 127.0.0.1 6379 INFO replication)
[ "$(echo "$told" | field role)" = master ] || [ "$(echo "$told" | field master_link_status)" = up ]
