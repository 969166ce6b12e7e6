"""`manifests/derived/*.toml`: which wheels go on top of which base, and where. Reading only; no network.

Every field: docs/reference/derived-images.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, StringConstraints, ValidationError, model_validator

from sitebundle.digest import Digest
from sitebundle.errors import StackInvalid
from sitebundle.manifest import Value
from sitebundle.reference import Reference

HOST: Final = "derived.mxbundle"
"""The host of every derived image's name; no registry answers for it."""

AbsolutePath = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._+-]+)+$")]


class Wheel(Value):
    """A wheel, pinned; no `platforms` means all of them. `sha256` is of the file that `url` serves."""

    name: str
    version: str
    url: str
    sha256: str
    platforms: tuple[str, ...] = ()

    @property
    def pinned(self) -> Digest:
        """The digest that `url` must have. Raises ValueError."""
        return Digest(f"sha256:{self.sha256.removeprefix('sha256:')}")


class Python(Value):
    """The base's Python: where its packages and programs lie, and what a program's first line names."""

    site_packages: AbsolutePath
    scripts: AbsolutePath
    interpreter: AbsolutePath


class Binary(Value):
    """A program that is used: started with `arguments` it ends with 0 and its output contains `prints`."""

    path: str
    arguments: tuple[str, ...]
    prints: str


class Brings(Value):
    """What the layer adds to the base's contract; tests hold the image to it."""

    files: tuple[str, ...] = ()
    binaries: tuple[Binary, ...] = ()


class Recipe(Value):
    """One derived image."""

    reference: str
    base: str
    python: Python
    wheels: tuple[Wheel, ...] = Field(min_length=1)
    brings: Brings = Brings()

    @model_validator(mode="after")
    def _holds_together(self) -> Recipe:
        own, base = Reference.parse(self.reference), Reference.parse(self.base)
        if own.host != HOST or own.tag in (None, "latest") or own.digest is not None:
            raise ValueError(f"a derived image is called {HOST}/NAME:TAG, not {self.reference}")
        if base.host == HOST:
            raise ValueError(f"the base {self.base} is a derived image itself")
        if base.tag in (None, "latest"):
            raise ValueError(f"the base {self.base} has no tag, or `latest`")
        seen: set[tuple[str, str]] = set()
        for wheel in self.wheels:
            _ = wheel.pinned
            for platform in wheel.platforms or ("",):
                if (wheel.name, platform) in seen or (wheel.name, "") in seen:
                    raise ValueError(f"wheel {wheel.name} stands twice for {platform or 'all platforms'}")
                seen.add((wheel.name, platform))
        return self


def read_recipes(folder: Path) -> tuple[Recipe, ...]:
    """The recipes in `folder`, by reference; none when there is no such folder. Raises StackInvalid."""
    found: dict[str, Recipe] = {}
    for path in sorted(folder.glob("*.toml")):
        recipe = _read(path)
        if recipe.reference in found:
            raise StackInvalid(path=path, detail=f"{recipe.reference} has another recipe already")
        found[recipe.reference] = recipe
    return tuple(found[reference] for reference in sorted(found))


def wheels_for(wheels: Iterable[Wheel], platform: str) -> tuple[Wheel, ...]:
    """Those of `wheels` that go into the layer for `platform`, by name."""
    chosen = (wheel for wheel in wheels if not wheel.platforms or platform in wheel.platforms)
    return tuple(sorted(chosen, key=lambda wheel: wheel.name))


def recipe_of(recipes: Sequence[Recipe], reference: str) -> Recipe | None:
    """The recipe of `host/repository:tag`."""
    return next((recipe for recipe in recipes if recipe.reference == reference), None)


def _read(path: Path) -> Recipe:
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as fault:
        raise StackInvalid(path=path, detail=fault.strerror or str(fault)) from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StackInvalid(path=path, detail=": ".join(part for part in (place, first["msg"]) if part)) from fault
    except ValueError as fault:
        raise StackInvalid(path=path, detail=str(fault)) from fault
