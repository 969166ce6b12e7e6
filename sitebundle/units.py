"""Amounts as people read them. No parsing: what is typed into site.yaml is the site's business."""

from __future__ import annotations


def bytes_for_people(count: int) -> str:
    """`count` bytes in decimal units, as disks and sticks are sold: `1.2 GB`."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
