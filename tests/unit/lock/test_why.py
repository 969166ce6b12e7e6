from __future__ import annotations

import pytest
from mxbundle.lock.model import Lock, LockedImage, LockedPlatform
from mxbundle.lock.why import why

from sitebundle.digest import Digest
from sitebundle.errors import ImageNotLocked
from sitebundle.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor


def locked(reference: str) -> LockedImage:
    def descriptor(part: str) -> Descriptor:
        return Descriptor("x", Digest.of(f"{reference} {part}".encode()), 1)

    platform = LockedPlatform(
        platform="linux/amd64",
        digest=descriptor("manifest").digest,
        media_type=OCI_MANIFEST,
        size=1,
        config=descriptor("config"),
        layers=(descriptor("layer"), Descriptor("x", Digest.of(b"shared"), 1)),
    )
    digest = descriptor("top").digest
    return LockedImage(reference=reference, digest=digest, media_type=OCI_INDEX, size=1, platforms=(platform,))


SYNAPSE, VALKEY = "ghcr.io/element-hq/synapse:v1.162.0", "docker.io/valkey/valkey:9.1.2-alpine"
LOCK = Lock(libzstd="1.5.7", images=(locked(SYNAPSE), locked(VALKEY), locked("docker.io/library/haproxy:3.2")))


@pytest.mark.parametrize(
    ("question", "references"),
    [
        (SYNAPSE, [SYNAPSE]),
        ("ghcr.io/element-hq/synapse", [SYNAPSE]),
        ("element-hq/synapse", [SYNAPSE]),
        ("synapse", [SYNAPSE]),
        ("synapse:v1.162.0", [SYNAPSE]),
        ("haproxy", ["docker.io/library/haproxy:3.2"]),
        ("haproxy:3.2", ["docker.io/library/haproxy:3.2"]),
        (LOCK.images[1].digest, [VALKEY]),
        (f"{VALKEY}@{LOCK.images[1].digest}", [VALKEY]),
        (LOCK.images[1].platforms[0].config.digest[7:19], [VALKEY]),
        (str(Digest.of(b"shared")), [image.reference for image in LOCK.images]),
    ],
)
def test_an_image_is_found_however_it_is_called(question: str, references: list[str]) -> None:
    assert [answer.image.reference for answer in why(LOCK, question)] == references


@pytest.mark.parametrize("question", ["synapse:v1.0", "ynapse", "postgres", "", "sha256:0000000", "ghcr.io/x/synapse"])
def test_what_is_not_locked_is_said_to_be_so(question: str) -> None:
    with pytest.raises(ImageNotLocked):
        why(LOCK, question)


def test_near_names_are_offered() -> None:
    with pytest.raises(ImageNotLocked, match=r"near: .*synapse"):
        why(LOCK, "ghcr.io/element-hq/synaps")
