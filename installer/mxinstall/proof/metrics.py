"""What processes say of themselves: reading counters from Prometheus' text form.

Pure; fetching the text is the context's business. Source of the form: prometheus.io, exposition formats.
"""

from __future__ import annotations

import re

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)(?: \d+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def counter(text: str, name: str, **labels: str) -> float:
    """The sum of all samples of `name` that carry `labels`; 0.0 where there are none yet."""
    total = 0.0
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is None or sample["name"] != name:
            continue
        carried = dict(_LABEL.findall(sample["labels"] or ""))
        if labels.items() <= carried.items():
            total += float(sample["value"])
    return total
