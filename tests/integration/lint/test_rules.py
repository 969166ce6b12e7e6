"""Each rule is broken: the shipped stack, rendered by the real helm, is changed at one place, and that rule fires.

A file of cases per rule. `also`: rules that the same change breaks as well, and no others may fire.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from linted import changed, shipped_subject, subjects_of
from mxbundle.lint.model import Finding
from mxbundle.lint.rules import RULES
from mxbundle.lint.rules.releases import SECRET_BYTES, release_secret_bytes
from mxbundle.lint.run import lint, read_accepted
from mxbundle.lint.subject import Subject
from mxbundle.lock.model import Lock, LockedImage
from shipped_stack import MANIFESTS, stack

from sitebundle.digest import Digest
from sitebundle.podspecs import image_uses
from sitebundle.reference import Reference

CASES = Path(__file__).parent / "cases"
BY_HAND = {"images.locked", "releases.same-bytes", "releases.no-surprises", "releases.secret-size"}
"""Rules whose cases are charts or a lock rather than objects: below."""


def findings(subject: Subject) -> tuple[Finding, ...]:
    return lint([subject], accepted=read_accepted(MANIFESTS)).findings


def all_cases() -> list[Any]:
    return [
        pytest.param(path.stem, case, id=f"{path.stem}: {case['name']}")
        for path in sorted(CASES.glob("*.yaml"))
        for case in yaml.safe_load(path.read_text())
    ]


@pytest.mark.parametrize("profile", stack().profiles)
def test_the_shipped_stack_keeps_every_rule(profile: str) -> None:
    assert [finding.as_json() for finding in findings(shipped_subject(profile))] == []


def test_what_is_accepted_is_still_found_without_the_list() -> None:
    found = lint([shipped_subject(profile) for profile in stack().profiles]).findings
    for entry in read_accepted(MANIFESTS):
        assert [one for one in found if entry.covers(one)], f"{entry} accepts nothing"


@pytest.mark.parametrize(("rule", "case"), all_cases())
def test_a_rule_fires_where_it_is_broken_and_nowhere_else(rule: str, case: dict[str, Any]) -> None:
    found = findings(changed(shipped_subject(case.get("profile", "demo")), case["change"]))
    told = "\n".join(f"{one.rule} {one.object} {one.path}: {one.seen}" for one in found)
    wanted = {*([rule] if case.get("fires", True) else []), *case.get("also", ())}
    assert {one.rule for one in found} == wanted, told
    for part in case.get("says", ()):
        assert part in told


def test_every_rule_has_a_case() -> None:
    assert {path.stem for path in CASES.glob("*.yaml")} | BY_HAND == set(RULES)


# --- rules about charts and locks -----------------------------------------------------------------------------


def with_chart(folder: Path, change: Callable[[Path], None]) -> Subject:
    """The shipped stack with the valkey chart changed."""
    manifests = folder / "manifests"
    shutil.copytree(MANIFESTS, manifests)
    change(manifests / "charts" / "valkey")
    (subject,) = subjects_of(manifests, ["demo"])
    return subject


def into_config_map(text: str) -> Callable[[Path], None]:
    def change(chart: Path) -> None:
        path = chart / "templates" / "surprise.yaml"
        path.write_text(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: surprise\n  namespace: {{ .Release.Namespace }}\n"
            f"data:\n  it: {text}\n"
        )

    return change


@pytest.mark.parametrize(
    ("text", "also"),
    [
        ("{{ randAlphaNum 8 | quote }}", {"releases.no-surprises"}),
        ('{{ (genCA "x" 1).Cert | quote }}', {"releases.no-surprises"}),
        ("t{{ now | unixEpoch }}{{ randInt 1 1000000 }}", {"releases.no-surprises"}),
    ],
)
def test_a_chart_that_renders_otherwise_each_time_is_found(text: str, also: set[str], tmp_path: Path) -> None:
    found = findings(with_chart(tmp_path, into_config_map(text)))
    assert {one.rule for one in found} == {"releases.same-bytes"} | also
    (differing,) = (one for one in found if one.rule == "releases.same-bytes")
    assert (differing.object, differing.path) == ("ConfigMap/matrix-data/surprise", "data.it")
    assert differing.release == "valkey"


@pytest.mark.parametrize(
    "text",
    [
        '{{ (lookup "v1" "Secret" "a" "b") | toJson | quote }}',
        "{{ .Release.Revision | quote }}",
        "{{ $.Release.IsUpgrade | quote }}",
    ],
)
def test_what_only_a_cluster_would_answer_otherwise_is_found_in_the_template(text: str, tmp_path: Path) -> None:
    (finding,) = findings(with_chart(tmp_path, into_config_map(text)))
    assert finding.rule == "releases.no-surprises"
    assert finding.path == "templates/surprise.yaml:7"


@pytest.mark.parametrize("text", ['{{ "now" | quote }}', "{{/* lookup */}}now", "{{ .Values.maxMemory | quote }}"])
def test_words_that_only_look_like_functions_are_none(text: str, tmp_path: Path) -> None:
    assert findings(with_chart(tmp_path, into_config_map(text))) == ()


def test_a_chart_version_in_a_pod_is_found_whatever_key_it_has(tmp_path: Path) -> None:
    def change(chart: Path) -> None:
        hashed = "mxbundle.io/config-hash:"
        path = next(path for path in (chart / "templates").rglob("*.yaml") if hashed in path.read_text())
        label = "made-by: v{{ .Chart.Version }}"
        path.write_text(path.read_text().replace(hashed, f"{label}\n        {hashed}"))

    found = findings(with_chart(tmp_path, change))
    assert {one.rule for one in found} == {"releases.version-free"}
    assert "99.98.97" in found[0].seen


def test_a_release_too_big_for_its_secret_is_found(tmp_path: Path) -> None:
    def change(chart: Path) -> None:
        (chart / "files").mkdir(exist_ok=True)
        noise = b"".join(Digest.of(str(number).encode()).encode() for number in range(30_000))
        (chart / "files" / "noise.txt").write_bytes(noise)

    subject = with_chart(tmp_path, change)
    (finding,) = findings(subject)
    assert (finding.rule, finding.object) == ("releases.secret-size", "Release/valkey")
    assert subject.renders is not None
    assert release_secret_bytes("valkey", subject.renders["valkey"]) > SECRET_BYTES * 3 // 4


def lock_of(subject: Subject) -> Lock:
    """A lock of all images that the subject names."""
    images = {}
    for item in subject.items:
        for use in image_uses([item.entry], item.release, subject.operands):
            upstream = Reference.parse(use.reference.removeprefix(f"{subject.registry}/"))
            images[upstream.tagged] = LockedImage(
                reference=upstream.tagged, digest=upstream.digest, media_type="x", size=1, needed_by=(), platforms=()
            )
    return Lock(libzstd="1", images=tuple(images.values()), charts=(), files=(), crds=(), tools=())


def test_an_image_that_is_not_in_the_lock_or_has_another_digest_there_is_found() -> None:
    subject = shipped_subject()
    lock = lock_of(subject)
    assert findings(replace(subject, lock=lock)) == ()
    (gone,) = (image for image in lock.images if "/haproxy:" in image.reference)
    without = lock.model_copy(update={"images": tuple(image for image in lock.images if image is not gone)})
    found = findings(replace(subject, lock=without))
    assert {one.rule for one in found} == {"images.locked"}
    assert all("haproxy" in one.seen and "is not locked" in one.seen for one in found)
    other = gone.model_copy(update={"digest": Digest.of(b"other")})
    moved = lock.model_copy(update={"images": (*without.images, other)})
    found = findings(replace(subject, lock=moved))
    assert {one.rule for one in found} == {"images.locked"}
    assert re.search("haproxy.* is locked as sha256:", found[0].seen)
