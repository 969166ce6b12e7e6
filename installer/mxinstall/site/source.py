"""The text of a `site.yaml`: bytes to plain values and the places they stand at, and what YAML itself makes of them.

Everything is bounded before it is built: size, depth, and what aliases would unfold to. Not here: fields and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from mxinstall.site.faults import Fault

MOST_BYTES = 256 * 1024
"""A site.yaml with every field and a note on each is below 20 KiB."""
MOST_NODES = 20_000
"""Values that a file may hold, each alias counted as what it stands for."""
MOST_DEPTH = 40

PathParts = tuple[str | int, ...]

_ENCODED = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_INT = "tag:yaml.org,2002:int"
_MERGE = "tag:yaml.org,2002:merge"
_ADVICE = (
    (r"character '\\t'", "indent with spaces: YAML takes no tabs there"),
    (
        r"mapping values are not allowed",
        "in this line or the one before: a colon and a space follow a name, and a text that holds `: ` is in quotes",
    ),
    (r"could not find expected ':'", "write `name: value`, with a space after the colon"),
    (r"expected ',' or '[\]}]'", "close the bracket, or put a comma between two entries"),
    (r"expected <block end>", "let all fields of one part begin in the same column"),
    (r"unexpected end of stream|quoted scalar", "close the quotes"),
    (r"undefined alias", "write the value itself"),
    (r"cannot start any token", "put the text in quotes"),
    (r"constructor for the tag|tag", "leave the `!` tag away: the file holds plain values"),
    (r"unhashable", "a name of a field is a plain text"),
    (r"control characters|not allowed", "remove the character; an editor that shows it helps"),
)


@dataclass(frozen=True)
class Source:
    """A file's plain values and the tree that they came from. The tree may be shared (aliases), never endless."""

    content: dict[Any, Any]
    root: yaml.MappingNode

    def place(self, path: PathParts, *, of_value: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the deepest part of `path` that the file has: its name, or its value."""
        node: yaml.Node = self.root
        mark = self.root.start_mark
        for depth, part in enumerate(path, start=1):
            found = _step(node, part)
            if found is None:
                break
            key, node = found
            last = depth == len(path)
            mark = node.start_mark if of_value and last else key.start_mark
        return mark.line + 1, mark.column + 1

    def scalar(self, path: PathParts) -> yaml.ScalarNode | None:
        """How the value at `path` is written; None for anything but one plain or quoted value."""
        node: yaml.Node = self.root
        for part in path:
            found = _step(node, part)
            if found is None:
                return None
            node = found[1]
        return node if isinstance(node, yaml.ScalarNode) else None


def read_source(data: bytes) -> tuple[Source | None, list[Fault]]:
    """The source, and what is wrong with it as YAML; without a source nothing more can be said about the file."""
    text, fault = _decoded(data)
    if text is None:
        return None, [fault] if fault else []
    try:
        faults = _bounded(text)
        if faults:
            return None, faults
        # The safe loader of PyYAML, in two steps: what it composes is looked at before anything is made of it.
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            if not isinstance(root, yaml.MappingNode):
                return None, [_no_mapping(root)]
            if fault := _endless(root):
                return None, [fault]
            faults = [*_repeated(root, ()), *_odd_names(root, ()), *_misread(root, ())]
            unreadable = list(_unreadable(loader, root))
            if unreadable:
                return None, sorted([*faults, *unreadable])
            return Source(loader.construct_document(root), root), faults
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as problem:
        return None, [_not_yaml(problem)]
    except yaml.YAMLError as problem:
        return None, [Fault("yaml.syntax", "", " ".join(str(problem).split()), _advice(str(problem)), 1, 1)]


def _decoded(data: bytes) -> tuple[str | None, Fault | None]:
    if len(data) > MOST_BYTES:
        seen = f"it has more than {MOST_BYTES} bytes"
        return None, Fault("file.too-large", "", seen, "give the file that holds the answers alone", 1, 1)
    for mark, name in _ENCODED.items():
        if data.startswith(mark):
            return None, Fault("file.encoding", "", f"it is {name}", "save it as UTF-8", 1, 1)
    try:
        text = data.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as problem:
        before = data[: problem.start].removeprefix(_BYTE_ORDER_MARK)
        line, column = before.count(b"\n") + 1, len(before.rpartition(b"\n")[2].decode("utf-8")) + 1
        seen = f"byte 0x{data[problem.start]:02x} is not UTF-8"
        return None, Fault("file.encoding", "", seen, "save it as UTF-8", line, column)
    if not text.strip():
        return None, Fault("file.empty", "", "it is empty", "`mxinstall init` writes one that fits the cluster", 1, 1)
    odd = re.search(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    if odd:
        line, column = _position(text, odd.start())
        seen = f"the control character U+{ord(odd[0]):04X} stands here"
        return None, Fault("file.encoding", "", seen, "remove it", line, column)
    return text, None


def _bounded(text: str) -> list[Fault]:
    """Depth and documents, from the events alone: composing is recursive, and would run out of stack."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                seen = "a second document begins here, after `---`"
                return [_at(event.start_mark, "yaml.documents", "", seen, "one file holds one site")]
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MOST_DEPTH:
                seen = f"more than {MOST_DEPTH} levels stand inside each other"
                return [_at(event.start_mark, "yaml.too-deep", "", seen, "close the brackets")]
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return []


def _endless(root: yaml.Node) -> Fault | None:
    """Aliases make small files large: each is counted as what it stands for, and none may stand for itself."""
    sizes: dict[int, int] = {}
    inside: set[int] = set()
    circular: list[yaml.Node] = []

    def size(node: yaml.Node) -> int:
        if id(node) in inside:
            circular.append(node)
            return 0
        if id(node) not in sizes:
            inside.add(id(node))
            sizes[id(node)] = min(1 + sum(size(inner) for inner in _inner(node)), MOST_NODES + 1)
            inside.discard(id(node))
        return sizes[id(node)]

    total = size(root)
    if circular:
        seen = "an alias (`*name`) stands inside the part that it stands for"
        return _at(circular[0].start_mark, "yaml.circular", "", seen, "write the value itself")
    if total <= MOST_NODES:
        return None
    smallest = next(
        node
        for node in _all(root)
        if sizes[id(node)] > MOST_NODES and all(sizes[id(inner)] <= MOST_NODES for inner in _inner(node))
    )
    seen = f"with its aliases (`*name`) unfolded it has more than {MOST_NODES} values"
    return _at(smallest.start_mark, "yaml.too-many", "", seen, "write the values out, each where it is needed")


def _repeated(node: yaml.Node, path: PathParts) -> Iterator[Fault]:
    """YAML lets the last of two equal names win in silence; an operator would not see which one counts."""
    first: dict[str, yaml.Node] = {}
    for key, value, inner in _entries(node, path):
        if isinstance(node, yaml.MappingNode) and isinstance(key, yaml.ScalarNode):
            if key.value in first:
                other = first[key.value].start_mark
                seen = f"{key.value} is given twice, first in line {other.line + 1}"
                yield _at(key.start_mark, "yaml.repeated", dotted(inner), seen, "leave one of them away")
                continue
            first[key.value] = key
        yield from _repeated(value, inner)


def _odd_names(node: yaml.Node, path: PathParts) -> Iterator[Fault]:
    """Names that YAML does not take for a text: `on:` is true, and no field."""
    for key, value, inner in _entries(node, path):
        if isinstance(node, yaml.MappingNode) and key.tag not in ("tag:yaml.org,2002:str", _MERGE):
            word = key.value if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            seen = f"YAML does not read the name `{word}` as a text{_read_as(key)}"
            yield _at(key.start_mark, "yaml.name", dotted(path), seen, f'write "{word}" in quotes if that is meant')
        yield from _odd_names(value, inner)


def _misread(node: yaml.Node, path: PathParts) -> Iterator[Fault]:
    """Numbers in forms that YAML counts in another way than people: 03478 is octal, 50:00 is base 60."""
    if path[:2] == ("spec", "values"):
        return  # a chart's values may hold the mode of a file
    if isinstance(node, yaml.ScalarNode) and node.style is None and node.tag == _INT:
        text = node.value
        if re.fullmatch(r"[-+]?0[0-9_]+", text) or "_" in text or ":" in text:
            seen = f"YAML reads {text} as {_number(text)}"
            ten = re.sub(r"^([-+]?)0+(?=[0-9])", r"\1", text.replace("_", ""))
            todo = f'write "{text}" in quotes' if ":" in text else f"write {ten}"
            yield _at(node.start_mark, "yaml.number", dotted(path), seen, todo)
    for _, value, inner in _entries(node, path):
        yield from _misread(value, inner)


def _unreadable(loader: yaml.SafeLoader, root: yaml.Node) -> Iterator[Fault]:
    """Values that cannot be made: a date with a 13th month, a number of 5,000 digits, a tag of a program's own."""
    for node in _all(root):
        if not isinstance(node, yaml.ScalarNode) and node.tag.startswith("tag:yaml.org,2002:"):
            continue
        if node.tag == _MERGE:
            continue
        try:
            loader.construct_object(node, deep=True)
        except ConstructorError as problem:
            yield _not_yaml(problem)
        except (ValueError, OverflowError):
            seen = f"{str(node.value)[:40]!r} is no value that YAML knows"
            yield _at(node.start_mark, "yaml.value", "", seen, "put it in quotes")


def as_read(node: yaml.ScalarNode) -> str:
    """What YAML makes of an unquoted word, where that is not the word: ` as false`; else nothing."""
    return _read_as(node) if node.style is None else ""


def dotted(path: PathParts) -> str:
    """`spec.federation.allow[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _read_as(node: yaml.Node) -> str:
    kind = node.tag.rpartition(":")[2]
    if kind == "bool":
        return f", but as {'true' if node.value.lower() in ('yes', 'true', 'on') else 'false'}"
    if kind == "int":
        return f", but as the number {_number(node.value)}"
    return {"float": ", but as a number", "timestamp": ", but as a date", "null": ", but as nothing"}.get(kind, "")


def _number(text: str) -> str:
    try:
        value = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return "a number"
    way = " (base 60)" if ":" in text else " (octal)" if re.match(r"[-+]?0[0-9]", text) else ""
    return f"{value}{way}"


def _step(node: yaml.Node, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        # What a merge (`<<`) brings stands before what the mapping says itself, and the last one counts.
        return next(((key, value) for key, value in reversed(node.value) if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


def _entries(node: yaml.Node, path: PathParts) -> Iterator[tuple[yaml.Node, yaml.Node, PathParts]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key, value, (*path, str(key.value) if isinstance(key, yaml.ScalarNode) else "?")
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield value, value, (*path, place)


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _all(root: yaml.Node) -> Iterator[yaml.Node]:
    """Every node once, in the order of the file."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += reversed(_inner(node))


def _no_mapping(root: yaml.Node | None) -> Fault:
    seen = "this is not a mapping with apiVersion, kind and spec"
    todo = "`mxinstall init` writes one that fits the cluster"
    return _at(root.start_mark, "yaml.shape", "", seen, todo) if root else Fault("file.empty", "", seen, todo, 1, 1)


def _not_yaml(problem: yaml.MarkedYAMLError) -> Fault:
    mark = problem.problem_mark or problem.context_mark
    said = str(problem.problem or problem.context)
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    return Fault("yaml.syntax", "", said, _advice(f"{problem.context or ''} {said}"), line, column)


def _advice(said: str) -> str:
    return next((todo for pattern, todo in _ADVICE if re.search(pattern, said)), "this is not YAML")


def _at(mark: Any, identity: str, field: str, seen: str, todo: str) -> Fault:
    return Fault(identity, field, seen, todo, mark.line + 1, mark.column + 1)


def _position(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
