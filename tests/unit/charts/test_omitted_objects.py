"""Objects of a published manifest that a release leaves out, and only these."""

from pathlib import Path
from typing import Any

import pytest
from shipped_stack import KUBE_VERSION, stack

from sitebundle.errors import RenderFailed
from sitebundle.helm import Helm
from sitebundle.operands import Operands
from sitebundle.rendering import Sources, render

MANIFEST = """\
apiVersion: v1
kind: Service
metadata: {name: barman-cloud}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: barman-cloud}
---
apiVersion: v1
kind: List
items:
  - apiVersion: cert-manager.io/v1
    kind: Issuer
    metadata: {name: selfsigned-issuer}
"""


def left(folder: Path, omit: tuple[str, ...]) -> list[str]:
    place = folder / "manifest.yaml"
    place.write_text(MANIFEST)
    release = stack().release("barman-cloud").model_copy(update={"omit": omit, "overrides": ()})
    sources, nobody = Sources(files={release.name: place}), Helm(Path("/no/helm/is/asked"))
    objects: list[dict[str, Any]] = render(
        stack(), release, sources, {}, nobody, KUBE_VERSION, str, Operands(fields=(), operators=())
    )
    return [f"{entry['kind']}/{entry['metadata']['name']}" for entry in objects]


def test_what_is_omitted_is_gone_and_its_namesake_of_another_kind_stays(tmp_path: Path) -> None:
    assert left(tmp_path, ("Certificate/barman-cloud", "Issuer/selfsigned-issuer")) == ["Service/barman-cloud"]


def test_an_omission_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RenderFailed, match="omit Certificate/renamed: the manifest has no such object"):
        left(tmp_path, ("Certificate/barman-cloud", "Certificate/renamed"))
