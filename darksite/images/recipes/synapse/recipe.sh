# Synapse from PyPI on Debian's Python, laid out as upstream's image is: everything under /usr/local.
ln -s /usr/bin/python3.13 /usr/local/bin/python3.13
ln -s python3.13 /usr/local/bin/python3
ln -s python3.13 /usr/local/bin/python

# Debian's Python looks into dist-packages; layers made for upstream's image add to site-packages.
rmdir /usr/local/lib/python3.13/dist-packages
mkdir /usr/local/lib/python3.13/site-packages
ln -s site-packages /usr/local/lib/python3.13/dist-packages

export PYTHONDONTWRITEBYTECODE=1
/usr/local/bin/python "$CARRIED/pip.whl/pip" install --quiet --no-cache-dir --no-compile \
    --break-system-packages --root-user-action=ignore --constraint "$CARRIED/constraints.txt" $WHEELS

# Bytecode that is never stale: the root file system is read-only and every file has the same time.
find /usr/lib/python3 /usr/lib/python3.13 /usr/local/lib -name __pycache__ -prune -exec rm -r {} +
/usr/local/bin/python -m compileall -q -j 2 --invalidation-mode unchecked-hash \
    /usr/lib/python3.13 /usr/lib/python3 /usr/local/lib/python3.13/site-packages || true

install -m 0755 "$CARRIED/start.py" /start.py
mkdir -m 0755 /data
