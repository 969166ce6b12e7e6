# HAProxy where upstream's image has it.
groupmod -g "$RUN_GID" haproxy
usermod -u "$RUN_UID" haproxy
install -d -o haproxy -g haproxy /var/lib/haproxy
ln -s /usr/sbin/haproxy /usr/local/sbin/haproxy
mkdir -p /usr/local/etc/haproxy
cp -R /etc/haproxy/errors /usr/local/etc/haproxy/errors
install -m 0755 "$CARRIED/docker-entrypoint.sh" /usr/local/bin/docker-entrypoint.sh

# Alpine has no bash: what needs one must fail here too.
rm -f /usr/bin/bash /usr/bin/rbash
