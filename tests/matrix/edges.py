"""The cases of docs/reference/edges.md; none yet."""
