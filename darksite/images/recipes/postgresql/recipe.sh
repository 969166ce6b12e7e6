# PostgreSQL with nothing set up: the operator's instance manager does that.
sed -ri 's/^#?(create_main_cluster) .*$/\1 = false/' /etc/postgresql-common/createcluster.conf
apt-get -qq install --yes "postgresql-$VERSION"
usermod -u "$RUN_UID" postgres
install -d -o postgres -g postgres /var/lib/postgresql/data
install -d /controller

# A third of the image, and the planner does without: the JIT provider and its compiler.
find /usr/lib -name 'libLLVM*' -delete
find /usr/lib/postgresql -name 'llvmjit*' -delete
rm -rf /usr/lib/postgresql/*/lib/bitcode

# A key pair that would be different in every build.
rm -f /etc/ssl/private/ssl-cert-snakeoil.key /etc/ssl/certs/ssl-cert-snakeoil.pem
