"""The long matrices: one case breaks one thing of an installed system, and its verdict becomes a row of a table.

`python -m tests.matrix` runs what has no fresh row, case after case on one site (`series`). Not here: how a part is
broken (`darksite.power`, the cluster), and how messages are counted (`mxinstall.proof.load`).
"""
