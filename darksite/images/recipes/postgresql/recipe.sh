# PostgreSQL with nothing set up: the operator's instance manager does that.
usermod -u "$RUN_UID" postgres
groupmod -g "$RUN_GID" postgres
chown -R postgres:postgres /var/lib/postgresql /etc/postgresql

# A third of the image, and the planner does without: the JIT provider and its compiler.
find /usr/lib -name 'libLLVM*' -delete
find /usr/lib/postgresql -name 'llvmjit*' -delete
rm -rf /usr/lib/postgresql/*/lib/bitcode
mkdir -p /controller /var/lib/postgresql/data
chown postgres:postgres /var/lib/postgresql/data
