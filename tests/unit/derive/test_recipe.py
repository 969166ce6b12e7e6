"""Recipes: what they may say, and which wheels are for which platform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from mxbundle.derive.recipe import read_recipes, wheels_for

from sitebundle.errors import StackInvalid

WHEEL = {"name": "one", "version": "1.0", "url": "https://example.org/one-1.0-py3-none-any.whl", "sha256": "1" * 64}
RECIPE: dict[str, Any] = {
    "reference": "derived.mxbundle/app:1",
    "base": "ghcr.io/example/app:1",
    "python": {"site_packages": "/lib/python3/site-packages", "scripts": "/bin", "interpreter": "/bin/python3"},
    "wheels": [WHEEL],
}
AMD64, ARM64 = "linux/amd64", "linux/arm64"


def write(folder: Path, recipe: dict[str, Any], name: str = "app") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(recipe))
    return path


def test_no_folder_is_no_recipe(tmp_path: Path) -> None:
    assert read_recipes(tmp_path / "derived") == ()


def test_a_pure_wheel_is_for_every_platform_and_another_for_those_it_names(tmp_path: Path) -> None:
    fast = [{**WHEEL, "name": "fast", "platforms": [name], "url": f"https://e/{name}.whl"} for name in (AMD64, ARM64)]
    write(tmp_path, {**RECIPE, "wheels": [WHEEL, *fast]})
    (recipe,) = read_recipes(tmp_path)
    assert [wheel.url for wheel in wheels_for(recipe.wheels, ARM64)] == [f"https://e/{ARM64}.whl", WHEEL["url"]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reference": "ghcr.io/example/app:1"}, "a derived image is called derived.mxbundle/NAME:TAG"),
        ({"reference": "derived.mxbundle/app"}, "a derived image is called derived.mxbundle/NAME:TAG"),
        ({"reference": "derived.mxbundle/app:latest"}, "a derived image is called derived.mxbundle/NAME:TAG"),
        ({"base": "derived.mxbundle/other:1"}, "is a derived image itself"),
        ({"base": "ghcr.io/example/app"}, "has no tag, or `latest`"),
        ({"wheels": []}, "wheels"),
        ({"wheels": [WHEEL, WHEEL]}, "wheel one stands twice for all platforms"),
        ({"wheels": [WHEEL, {**WHEEL, "platforms": [AMD64]}]}, "wheel one stands twice for linux/amd64"),
        ({"wheels": [{**WHEEL, "sha256": "12"}]}, "not a sha256 digest"),
        ({"python": {**RECIPE["python"], "scripts": "bin"}}, "python.scripts"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = write(tmp_path, {**RECIPE, **change})
    with pytest.raises(StackInvalid) as caught:
        read_recipes(tmp_path)
    assert str(path) in caught.value.message
    assert said in caught.value.message


def test_two_recipes_for_one_image_are_refused(tmp_path: Path) -> None:
    write(tmp_path, RECIPE, "a")
    write(tmp_path, RECIPE, "b")
    with pytest.raises(StackInvalid, match="has another recipe already"):
        read_recipes(tmp_path)
