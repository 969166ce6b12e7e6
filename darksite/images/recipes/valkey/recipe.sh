# Valkey where upstream's image has it.
groupmod -g "$RUN_GID" valkey
usermod -u "$RUN_UID" valkey
chown -R valkey:valkey /var/lib/valkey /etc/valkey
for program in valkey-server valkey-sentinel valkey-cli valkey-benchmark valkey-check-aof valkey-check-rdb; do
    ln -s "/usr/bin/$program" "/usr/local/bin/$program"
done
install -m 0755 "$CARRIED/docker-entrypoint.sh" /usr/local/bin/docker-entrypoint.sh
install -d -o valkey -g valkey /data

# Alpine has no bash: what needs one must fail here too.
rm -f /usr/bin/bash /usr/bin/rbash
