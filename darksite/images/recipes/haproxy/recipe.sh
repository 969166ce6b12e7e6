# HAProxy where upstream's image has it.
ln -s /usr/sbin/haproxy /usr/local/sbin/haproxy
mkdir -p /usr/local/etc/haproxy
cp -R /etc/haproxy/errors /usr/local/etc/haproxy/errors
install -m 0755 "$CARRIED/docker-entrypoint.sh" /usr/local/bin/docker-entrypoint.sh
mkdir -p /var/lib/haproxy
chown "$RUN_UID:$RUN_GID" /var/lib/haproxy
rm -f /usr/bin/bash /usr/bin/rbash
