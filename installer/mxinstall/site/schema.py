"""The JSON Schema of `site.yaml` (draft 7, which editors know best), from the model:
`python -m mxinstall.site.schema > docs/reference/site.schema.json`. A test compares that file with it.

It says what a file may look like. Whether values fit each other is `mxinstall.site.agreement`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from mxinstall.site.fields import plain_text
from mxinstall.site.model import HOW_WRITTEN, Site

FILE = "site.schema.json"
"""What the schema is called where it lies beside a site.yaml."""

_REFERENCE = "#/definitions/"


def schema() -> dict[str, Any]:
    """The schema. Nothing in it refers anywhere: draft 7 ignores what stands beside a reference, descriptions too."""
    made = Site.model_json_schema(by_alias=True, ref_template=_REFERENCE + "{model}")
    definitions = made.pop("$defs")
    opened = _opened(made, definitions)
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "site.yaml", **opened}


def text() -> str:
    """The schema as a file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _opened(node: Any, definitions: dict[str, Any]) -> Any:
    """`node` with every reference replaced by what it names, descriptions on one line, and patterns in words."""
    if isinstance(node, list):
        return [_opened(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        named = definitions[node["$ref"].removeprefix(_REFERENCE)]
        return _opened({**named, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            result[key] = {name: _opened(inner, definitions) for name, inner in value.items()}
        elif key == "default":
            result[key] = value
        elif key == "description":
            result[key] = plain_text(" ".join(value.split()))
        elif key != "title":
            result[key] = _opened(value, definitions)
    if result.get("pattern") in HOW_WRITTEN:
        # A keyword of editors (vscode-json-languageservice); validators pass over what they do not know.
        result["patternErrorMessage"] = f"Wanted: {HOW_WRITTEN[result['pattern']]}"
    return result


if __name__ == "__main__":
    sys.stdout.write(text())
