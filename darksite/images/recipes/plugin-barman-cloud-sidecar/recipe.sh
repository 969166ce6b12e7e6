# barman-cloud in a virtual environment of its own, as upstream's image has it.
export PYTHONDONTWRITEBYTECODE=1
python3 -m venv --without-pip --symlinks /venv
/venv/bin/python3 "$CARRIED/pip.whl/pip" install --quiet --no-cache-dir --no-compile --no-deps \
    --root-user-action=ignore $WHEELS
mkdir -p /home/nonroot

# Bytecode that is never stale: the root file system is read-only and every file has the same time.
find /usr/lib/python3 /usr/lib/python3.13 /venv -name __pycache__ -prune -exec rm -r {} +
/venv/bin/python3 -m compileall -q -j 2 --invalidation-mode unchecked-hash /usr/lib/python3.13 /usr/lib/python3 /venv || true

# Upstream's has no shell: what needs one must fail here too.
rm -f /usr/bin/bash /usr/bin/rbash /usr/bin/dash /usr/bin/sh
