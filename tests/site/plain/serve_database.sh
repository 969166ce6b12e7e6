# A PostgreSQL as somebody else might run it: TLS, passwords, UTF8, collation C.
umask 077
export PATH=/usr/lib/postgresql/17/bin:$PATH
cp -f /tls/tls.key /data/tls.key
serve() { exec postgres -D /data/pg -k /data -h '*' -c ssl=on -c ssl_cert_file=/tls/tls.crt -c ssl_key_file=/data/tls.key; }
# A container that starts again has its volume.
if [ -e /data/made ]; then serve; fi
rm -rf /data/pg
initdb -D /data/pg -U postgres -E UTF8 --locale=C --auth-local=trust --auth-host=scram-sha-256 >/dev/null
echo "hostssl all all all scram-sha-256" >> /data/pg/pg_hba.conf
{
    printf "create role synapse login password '%s';\n" "$(cat /login/password)"
    printf "create database synapse owner synapse;\n"
} > /data/first.sql
pg_ctl -D /data/pg -o "-k /data -h ''" -w start >/dev/null
psql -h /data -U postgres -X -v ON_ERROR_STOP=1 -f /data/first.sql
pg_ctl -D /data/pg -w stop >/dev/null
touch /data/made
serve
