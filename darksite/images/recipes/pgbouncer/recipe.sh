# PgBouncer where upstream's image has it, with a user of that name: it lets the manager in by what the kernel says.
groupadd -r --gid "$RUN_GID" pgbouncer
useradd -r --uid "$RUN_UID" --gid "$RUN_GID" pgbouncer
ln -sf /usr/sbin/pgbouncer /usr/bin/pgbouncer
chown -R pgbouncer:pgbouncer /etc/pgbouncer
install -m 0755 "$CARRIED/entrypoint.sh" /entrypoint.sh

# Made at installation, with a password of its own.
rm -f /etc/pgbouncer/userlist.txt
