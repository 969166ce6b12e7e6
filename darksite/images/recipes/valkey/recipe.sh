# Valkey where upstream's image has it. Debian's packages found the user there already.
for program in valkey-server valkey-sentinel valkey-cli valkey-benchmark valkey-check-aof valkey-check-rdb; do
    ln -s "/usr/bin/$program" "/usr/local/bin/$program"
done
install -m 0755 "$CARRIED/docker-entrypoint.sh" /usr/local/bin/docker-entrypoint.sh
mkdir /data
chown "$RUN_UID:$RUN_GID" /data
rm -f /usr/bin/bash /usr/bin/rbash
