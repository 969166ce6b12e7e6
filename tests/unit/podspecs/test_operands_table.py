from __future__ import annotations

from pathlib import Path

import pytest

from sitebundle.errors import StackInvalid
from sitebundle.operands import read_operands


def test_an_empty_folder_is_refused_because_nothing_would_be_found(tmp_path: Path) -> None:
    with pytest.raises(StackInvalid, match="no table of operands"):
        read_operands(tmp_path)


def test_an_unknown_entry_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("fieldz: []")
    with pytest.raises(StackInvalid, match="fieldz"):
        read_operands(tmp_path)


def test_the_shipped_catalogue_has_read_the_operator_that_the_stack_locks() -> None:
    from sitebundle.reference import Reference
    from sitebundle.stack import read_stack

    manifests = Path(__file__).parents[3] / "manifests"
    locked = Reference.parse(read_stack(manifests / "stack.yaml").images["cloudnative-pg"])
    (operator,) = (o for o in read_operands(manifests / "operands").operators if o.repository == locked.name)
    assert locked.tag in operator.versions
