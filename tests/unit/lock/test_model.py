from __future__ import annotations

from pathlib import Path

import pytest
from mxbundle.lock.compute import changes
from mxbundle.lock.model import Lock, LockedImage, LockedPlatform, LockedTool, read_lock, write_lock

from sitebundle.digest import Digest
from sitebundle.errors import BundleUnwritable, LockStale, StackInvalid
from sitebundle.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor

LIBZSTD = "1.5.7"


def digest(text: str) -> Digest:
    return Digest.of(text.encode())


def image(name: str, *layers: tuple[str, int], confirmed_at: str | None = "2026-01-02T03:04:05Z") -> LockedImage:
    platform = LockedPlatform(
        platform="linux/amd64",
        digest=digest(f"{name} manifest"),
        media_type=OCI_MANIFEST,
        size=200,
        config=Descriptor("application/vnd.oci.image.config.v1+json", digest(f"{name} config"), 50),
        layers=tuple(Descriptor("layer", digest(layer), size) for layer, size in layers),
    )
    return LockedImage(
        reference=f"ghcr.io/example/{name}:1",
        digest=digest(name),
        media_type=OCI_INDEX,
        size=100,
        confirmed_at=confirmed_at,
        needed_by=('synapse Deployment/matrix/a spec."x"',),
        platforms=(platform,),
    )


def test_what_is_written_reads_back_equal_and_writes_the_same_bytes(tmp_path: Path) -> None:
    tool = LockedTool(
        name="helm",
        version="4",
        platform="linux/amd64",
        url="https://example.org/h\u00e9lm\x7f",
        download_digest=digest("archive"),
        path_in_archive="linux-amd64/helm",
        digest=digest("helm"),
        size=5,
    )
    lock = Lock(
        libzstd=LIBZSTD, images=(image("a", ("one", 1)), image("b", ("one", 1), confirmed_at=None)), tools=(tool,)
    )
    write_lock(lock, tmp_path / "images.lock")
    again = read_lock(tmp_path / "images.lock")
    assert again == lock
    assert again.to_bytes() == (tmp_path / "images.lock").read_bytes()
    assert isinstance(again.images[0].platforms[0].layers[0].digest, Digest)


def test_the_order_in_which_images_were_resolved_does_not_show_in_the_bytes() -> None:
    a, b = image("a", ("one", 1)), image("b", ("two", 2))
    assert Lock(libzstd=LIBZSTD, images=(a, b)).to_bytes() == Lock(libzstd=LIBZSTD, images=(b, a)).to_bytes()


def test_a_layer_that_two_images_share_is_counted_once() -> None:
    lock = Lock(libzstd=LIBZSTD, images=(image("a", ("shared", 1000), ("own", 1)), image("b", ("shared", 1000))))
    assert lock.unique_bytes == 2 * (100 + 200 + 50) + 1000 + 1


def test_an_image_without_a_confirmation_or_without_platforms_is_unconfirmed() -> None:
    bare = image("c").model_copy(update={"platforms": ()})
    lock = Lock(libzstd=LIBZSTD, images=(image("a"), image("b", confirmed_at=None), bare))
    assert lock.unconfirmed == ("ghcr.io/example/b:1", "ghcr.io/example/c:1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('lock_version = 2\nlibzstd = "1"', "lock_version: "),
        ('lock_version = 1\nlibzstd = "1"\nsurprise = 1', "surprise: "),
        ("lock_version = 1", "libzstd: "),
        ("lock_version = ", "Invalid value"),
        (
            'libzstd = "1"\n[[charts]]\nrelease="a"\nname="a"\nversion="1"\nsource="x"\ndigest="sha256:12"',
            r"charts\.0\.digest: ",
        ),
    ],
)
def test_a_malformed_lock_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "images.lock").write_text(text)
    with pytest.raises(StackInvalid, match=said):
        read_lock(tmp_path / "images.lock")


def test_another_compressor_is_shown_as_a_change() -> None:
    before, after = (Lock(libzstd=version) for version in ("1.5.6", "1.5.7"))
    assert [str(change) for change in changes(before, after)] == ["tool libzstd moved from 1.5.6 to 1.5.7"]
    assert [str(change) for change in changes(None, after)] == ["new tool libzstd"]


def test_a_lock_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleUnwritable):
        write_lock(Lock(libzstd=LIBZSTD), tmp_path / "file" / "images.lock")


def test_a_missing_lock_says_to_run_lock(tmp_path: Path) -> None:
    with pytest.raises(LockStale, match="does not exist") as caught:
        read_lock(tmp_path / "images.lock")
    assert "mxbundle lock" in caught.value.what_to_do
