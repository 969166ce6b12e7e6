"""Whatever is done to a bundle, reading it ends well or in an error for people; never in a traceback or a flood."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bundles import rebuild
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vectors import VECTOR as VECTOR_FILE

from sitebundle.archive import BundleReader
from sitebundle.errors import MxError
from sitebundle.events import silent
from sitebundle.signature import AllowedSigners, Signature

VECTOR = VECTOR_FILE.read_bytes()
SETTINGS = settings(max_examples=300, deadline=20_000, suppress_health_check=[HealthCheck.too_slow])

place = st.integers(0, len(VECTOR) - 1)
mutation = st.one_of(
    st.tuples(st.just("set"), place, st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=600)),
    st.tuples(st.just("drop"), place, st.integers(1, 70_000)),
    st.tuples(st.just("copy"), place, st.integers(1, 70_000)),
    st.tuples(st.just("cut"), place, st.just(0)),
)


def mutate(content: bytes, mutations: list[tuple[str, int, Any]]) -> bytes:
    for kind, at, what in mutations:
        match kind:
            case "set":
                content = content[:at] + what + content[at + len(what) :]
            case "insert":
                content = content[:at] + what + content[at:]
            case "drop":
                content = content[:at] + content[at + what :]
            case "copy":
                content = content[:at] + content[at : at + what] * 2 + content[at + what :]
            case "cut":
                content = content[:at]
    return content


def read_all(path: Path) -> None:
    """Everything that a reader does with a bundle; only errors for people may come out."""
    with suppress(MxError), BundleReader.open(path) as reader:
        with suppress(MxError):
            reader.attestations()
        for member in reader.manifest.members:
            with suppress(MxError):
                reader.read(member.name)
        reader.verify(silent)


def on_file(act: Callable[[Path], object]) -> None:
    handle, name = tempfile.mkstemp()
    os.close(handle)
    try:
        act(Path(name))
    finally:
        Path(name).unlink()


@SETTINGS
@given(st.lists(mutation, min_size=1, max_size=4))
def test_changed_bytes(mutations: list[tuple[str, int, Any]]) -> None:
    def act(path: Path) -> None:
        path.write_bytes(mutate(VECTOR, mutations))
        read_all(path)

    on_file(act)


value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=30) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@SETTINGS
@given(st.data())
def test_manifests_that_say_anything(data: st.DataObject) -> None:
    """The manifest is changed and the archive made to fit, checksums and all, as whoever signs could."""

    def change(document: dict[str, Any]) -> None:
        for _ in range(data.draw(st.integers(1, 3))):
            holder: Any = document
            for _ in range(data.draw(st.integers(0, 3))):
                keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
                inner = [key for key in keys if isinstance(holder[key], dict | list) and holder[key]]
                if not inner:
                    break
                holder = holder[data.draw(st.sampled_from(inner))]
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = data.draw(st.sampled_from(keys))
            old = holder[key]
            near = st.sampled_from(range(old - 3, old + 4)) if type(old) is int else st.just(old)
            holder[key] = data.draw(st.one_of(near, value))

    def act(path: Path) -> None:
        path.write_bytes(VECTOR)
        rebuild(path, change)
        read_all(path)

    on_file(act)


@settings(max_examples=300)
@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")))
def test_signatures_and_trust_stores_of_any_text(text: str) -> None:
    with suppress(ValueError):
        Signature.parse(text)
    with suppress(ValueError):
        Signature.parse(f"-----BEGIN SSH SIGNATURE-----\n{text}\n-----END SSH SIGNATURE-----")
    with suppress(ValueError):
        AllowedSigners.parse(text)
