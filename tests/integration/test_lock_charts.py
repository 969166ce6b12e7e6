"""Charts that are not in the tree: from an OCI registry and from an https URL, packed by us all the same."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from imagery import MANIFESTS
from mxbundle.lock.charts import CHART_LAYER, PackedChart, obtain_chart, pack_chart
from registries import Fault, FaultyProxy, running_registry

from sitebundle.digest import Digest
from sitebundle.errors import MxError, SourceChanged, StackInvalid
from sitebundle.oci.client import Endpoint, Mirrors, Readable, Registry, RetryPolicy
from sitebundle.oci.descriptor import OCI_MANIFEST
from sitebundle.oci.upstream import Upstream
from sitebundle.stack import Release

VALKEY = MANIFESTS / "charts/valkey"
VERSION = str(yaml.safe_load((VALKEY / "Chart.yaml").read_text())["version"])
CONFIG = b'{"name":"valkey"}'


def published() -> bytes:
    """The chart as somebody else's tool packs it: other order, times, compression."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path in sorted(VALKEY.rglob("*"), reverse=True):
            if path.is_file():
                archive.add(path, f"valkey/{path.relative_to(VALKEY)}")
    return gzip.compress(content.getvalue())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as address:
        registry = Registry(Endpoint.parse(f"http://{address}/ghcr.io"))
        chart = published()
        for blob in (CONFIG, chart):

            @contextmanager
            def source(offset: int, data: bytes = blob) -> Iterator[Readable]:
                yield io.BytesIO(data[offset:])

            registry.upload("example/charts/valkey", Digest.of(blob), len(blob), source)
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.cncf.helm.config.v1+json",
                "digest": Digest.of(CONFIG),
                "size": len(CONFIG),
            },
            "layers": [{"mediaType": CHART_LAYER, "digest": Digest.of(chart), "size": len(chart)}],
        }
        registry.put_manifest("example/charts/valkey", VERSION, json.dumps(manifest).encode(), OCI_MANIFEST)
        yield address


@pytest.fixture
def proxy(store: str) -> Iterator[FaultyProxy]:
    faulty = FaultyProxy(store)
    yield faulty
    faulty.close()


def release(chart: str, version: str | None = VERSION, sha256: str | None = None) -> Release:
    return Release(name="valkey", namespace="matrix-data", chart=chart, version=version, sha256=sha256)


def obtain(entry: Release, folder: Path, proxy: FaultyProxy | None = None, files: Path | None = None) -> PackedChart:
    hosts = {"ghcr.io": Endpoint.parse(f"{proxy.url}/ghcr.io")} if proxy is not None else {}
    mirrors = Mirrors(hosts=hosts, files={"https://charts.example": files.as_uri()} if files else {})
    workspace = folder / "workspace"
    workspace.mkdir()
    return obtain_chart(entry, MANIFESTS, Upstream(mirrors, policy=RetryPolicy(base_seconds=0.01)), workspace)


OCI = "oci://ghcr.io/example/charts/valkey"


def test_a_chart_from_a_registry_is_the_same_package_as_from_the_tree(tmp_path: Path, proxy: FaultyProxy) -> None:
    chart = obtain(release(OCI), tmp_path, proxy)
    assert (chart.name, chart.version, chart.source) == ("valkey", VERSION, OCI)
    assert chart.content == pack_chart(VALKEY)


def test_a_chart_whose_bytes_were_changed_on_the_way_is_refused(tmp_path: Path, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("corrupt", path="/blobs/", times=10)]
    with pytest.raises(MxError, match="sent sha256:"):
        obtain(release(OCI), tmp_path, proxy)


def test_a_chart_version_that_does_not_exist_is_one_clear_error(tmp_path: Path, proxy: FaultyProxy) -> None:
    with pytest.raises(MxError, match="404"):
        obtain(release(OCI, "9.9.9"), tmp_path, proxy)


def test_a_chart_from_a_url_is_pinned_by_its_digest(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "valkey-0.1.0.tgz").write_bytes(published())
    pinned = hashlib.sha256(published()).hexdigest()
    url = "https://charts.example/valkey-0.1.0.tgz"
    assert obtain(release(url, sha256=pinned), tmp_path, files=files).content == pack_chart(VALKEY)
    (tmp_path / "workspace" / "again").mkdir()
    with pytest.raises(SourceChanged):
        obtain(release(url, sha256="0" * 64), tmp_path / "workspace" / "again", files=files)


def test_a_chart_of_another_version_than_the_stack_asks_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackInvalid, match=rf"version {re.escape(VERSION)}, but release valkey asks for 2\.0\.0"):
        obtain(release("./charts/valkey", "2.0.0"), tmp_path)


def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("valkey/../../../evil"), io.BytesIO())
    files = tmp_path / "files"
    files.mkdir()
    (files / "valkey.tgz").write_bytes(content.getvalue())
    pinned = hashlib.sha256(content.getvalue()).hexdigest()
    with pytest.raises(StackInvalid, match="not a chart archive"):
        obtain(release("https://charts.example/valkey.tgz", sha256=pinned), tmp_path, files=files)
