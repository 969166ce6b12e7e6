"""Upstream of a dark site: real registry, real file host, on loopback; every byte that they send is counted."""

import json
import os
import shutil
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from darksite import cgroups, upstream
from darksite.images import all_contracts, build
from darksite.processes import Ledger
from darksite.site import Site

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SITE = Site("uptest")
OTHER = Site("uptest2")


def get(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read(), dict(refused.headers)


@pytest.fixture(scope="module")
def addresses() -> Iterator[upstream.Addresses]:
    if os.geteuid() != 0:
        pytest.fail("upstream keeps its state beside the dark site's: run as root")
    yield upstream.start(SITE)
    for site in (SITE, OTHER):
        upstream.stop(site)
        cgroups.remove(f"mxdark/{site.name}")
        shutil.rmtree(site.state, ignore_errors=True)


def test_every_contract_s_reference_means_an_index_under_its_host(addresses: upstream.Addresses) -> None:
    status = upstream.status(SITE)
    assert status.missing == ()
    for contract in all_contracts():
        for reference, digest in build(contract).digests().items():
            assert status.images[reference] == digest
            repository, _, tag = reference.rpartition(":")
            code, content, headers = get(f"http://{addresses.registry}/v2/{repository}/manifests/{tag}", Accept=INDEX)
            assert (code, headers["Docker-Content-Digest"]) == (200, digest)
            assert json.loads(content)["mediaType"] == INDEX


def test_the_mirrors_file_answers_for_the_real_names(addresses: upstream.Addresses) -> None:
    mirrors = tomllib.loads(upstream.mirrors_file(SITE).read_text())
    for host in upstream.HOSTS:
        assert mirrors["mirrors"][host] == f"http://{addresses.registry}/{host}"
    published = "cloudnative-pg/cloudnative-pg/releases/download/v1.30.0/cnpg-1.30.0.yaml"
    code, content, _ = get(f"{mirrors['files']['https://github.com']}/{published}")
    assert code == 200
    assert b"image: ghcr.io/cloudnative-pg/cloudnative-pg:1.30.0" in content


def test_a_second_start_sends_nothing_and_starts_nothing(addresses: upstream.Addresses) -> None:
    ledger = Ledger(SITE.state / "upstream" / "processes")
    before, answered = ledger.parts(), len(upstream.served(SITE))
    assert upstream.start(SITE) == addresses
    assert ledger.parts() == before
    methods = [answer.method for answer in upstream.served(SITE)[answered:]]
    assert set(methods) <= {"GET", "HEAD"}


def settled(look: Callable[[], object], wanted: object) -> object:
    """What `look` says once it is `wanted`: an answer is noted a moment after its last byte was sent."""
    deadline = time.monotonic() + 10
    while (told := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return told


def test_bytes_of_a_blob_are_counted_ranges_too(addresses: upstream.Addresses) -> None:
    (valkey,) = (contract for contract in all_contracts() if contract.name == "valkey")
    repository = valkey.reference.rpartition(":")[0]
    manifests = f"http://{addresses.registry}/v2/{repository}/manifests"
    index = json.loads(get(f"{manifests}/9.1.2-alpine", Accept=INDEX)[1])
    manifest = json.loads(get(f"{manifests}/{index['manifests'][0]['digest']}", Accept=MANIFEST)[1])
    layer = manifest["layers"][-1]
    url = f"http://{addresses.registry}/v2/{repository}/blobs/{layer['digest']}"
    before = upstream.served_blob_bytes(SITE).get(layer["digest"], 0)
    assert len(get(url)[1]) == layer["size"]
    code, part, _ = get(url, Range="bytes=100-299")
    assert (code, len(part)) == (206, 200)
    wanted = before + layer["size"] + 200
    assert settled(lambda: upstream.served_blob_bytes(SITE)[layer["digest"]], wanted) == wanted


def test_the_file_host_honours_ranges_only_for_the_content_that_was_meant(addresses: upstream.Addresses) -> None:
    path = "/github.com/cloudnative-pg/cloudnative-pg/releases/download/v1.30.0/cnpg-1.30.0.yaml"
    url = f"http://{addresses.files}{path}"
    _, whole, headers = get(url)
    code, part, partial = get(url, Range="bytes=1000-", If_Range=headers["ETag"])
    assert (code, part, partial["Content-Range"]) == (206, whole[1000:], f"bytes 1000-{len(whole) - 1}/{len(whole)}")
    assert get(url, Range="bytes=1000-", If_Range='"another"')[:2] == (200, whole)
    assert get(url, Range=f"bytes={len(whole)}-")[0] == 416
    assert get(f"http://{addresses.files}/../../etc/passwd")[0] == 404
    wanted = [len(whole) - 1000, len(whole), 0]
    assert settled(lambda: [a.size_bytes for a in upstream.served(SITE) if a.path == path][-3:], wanted) == wanted


def test_another_site_gets_ports_of_its_own(addresses: upstream.Addresses) -> None:
    assert upstream.start(OTHER).registry != addresses.registry
    assert upstream.status(OTHER).missing == ()


def test_skopeo_copies_an_image_out_of_it(addresses: upstream.Addresses, tmp_path: Path) -> None:
    (haproxy,) = (contract for contract in all_contracts() if contract.name == "haproxy")
    source = f"docker://{addresses.registry}/{haproxy.reference}"
    copied = f"oci:{tmp_path}:haproxy"
    command = ["skopeo", "copy", "--quiet", "--all", "--src-tls-verify=false", source, copied]
    subprocess.run(command, check=True, timeout=60)
    (top,) = json.loads((tmp_path / "index.json").read_text())["manifests"]
    assert top["digest"] == build(haproxy).digests()[haproxy.reference]


def test_stop_leaves_no_process_and_may_be_said_twice(addresses: upstream.Addresses) -> None:
    upstream.stop(SITE)
    upstream.stop(SITE)
    assert not any(upstream.status(SITE).running.values())
    # Refused; or reset, while the kernel still clears the socket away.
    with pytest.raises((urllib.error.URLError, ConnectionResetError)):
        get(f"http://{addresses.registry}/v2/")
    assert upstream.start(SITE) == addresses
