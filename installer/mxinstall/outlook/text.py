"""An outlook for people: a summary that fits one screen, and all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mxinstall.outlook.model import Action, ObjectChange, Outlook
from mxinstall.outlook.restarts import total_pods

_WORDS: dict[Action, str] = {
    "create": "make",
    "change": "change",
    "replace": "refused by a dry run",
    "delete": "delete",
    "keep": "let go",
    "run": "run",
}
_SIGNS: dict[Action, str] = {"create": "+", "change": "~", "replace": "!", "delete": "-", "keep": "=", "run": ">"}
_SOME = 6


def summary(outlook: Outlook) -> str:
    """One line each: bytes, releases, pods that end, seconds, what cannot be undone."""
    if outlook.nothing_to_do:
        return f"generation {outlook.generation}: nothing to do"
    lines = [f"generation {outlook.generation}"]
    lines.append(f"  to move      {_bytes(outlook)}")
    for name, changes in outlook.objects.items():
        lines.append(f"  {name:<12} {_counted(changes)}")
    for title, names in outlook.around.items():
        if names:
            lines.append(f"  {title:<12} {_some(names)}")
    lines.append(f"  pods         {_pods(outlook)}")
    lines += [
        f"               {restart.workload}: {restart.pods}, {restart.how}" for restart in outlook.restarts[:_SOME]
    ]
    if len(outlook.restarts) > _SOME:
        lines.append(f"               and {len(outlook.restarts) - _SOME} workloads more (mxinstall plan)")
    lines.append(f"  time         {_time(outlook)}")
    lines += [f"  for good     {text}" for text in outlook.for_good]
    return "\n".join(lines)


def details(outlook: Outlook) -> str:
    """The summary, then every object with every field that changes, then where the seconds come from."""
    lines = [summary(outlook)]
    for name, changes in outlook.objects.items():
        lines += ["", name]
        for change in changes:
            note = f"  ({change.note})" if change.note else ""
            lines.append(f"  {_SIGNS[change.action]} {change.object}{note}")
            lines += [f"      {field}" for field in change.fields]
    if outlook.images_missing and len(outlook.images_missing) < outlook.images:
        lines += ["", "images that the registry lacks", *(f"  {name}" for name in outlook.images_missing)]
    if len(outlook.restarts) > _SOME:
        lines += ["", "pods that end"]
        lines += [f"  {restart.workload}: {restart.pods}, {restart.how}" for restart in outlook.restarts]
    if not outlook.nothing_to_do:
        lines += ["", "time"]
        for entry in outlook.durations:
            lines.append(f"  {entry.stage:<24} {_seconds(entry.seconds):>9}  {entry.basis}")
    return "\n".join(lines)


def _bytes(outlook: Outlook) -> str:
    missing = len(outlook.images_missing)
    images = f"{missing} of {outlook.images} images missing" if missing else f"all {outlook.images} images are there"
    return f"{outlook.bytes_to_move / 1e6:.1f} MB; {images}"


def _counted(changes: Iterable[ObjectChange]) -> str:
    counts = Counter(change.action for change in changes)
    return ", ".join(f"{_WORDS[action]} {counts[action]}" for action in _WORDS if counts[action])


def _pods(outlook: Outlook) -> str:
    total = total_pods(outlook.restarts)
    return f"{total} that run now end" if total else "none that runs now ends"


def _time(outlook: Outlook) -> str:
    unknown = outlook.unknown
    if not unknown:
        return f"about {_seconds(outlook.known_seconds)}, as this site has measured before"
    known = f"{_seconds(outlook.known_seconds)} for what this site has measured; " if outlook.known_seconds else ""
    return f"{known}not measured here yet: {_some(unknown)}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    rest = f" and {len(listed) - _SOME} more" if len(listed) > _SOME else ""
    return ", ".join(listed[:_SOME]) + rest
