"""What both sides of the gap agree on: the file, its manifest, its signature, OCI transport, errors, events.

Imports neither `mxbundle` (connected side) nor `mxinstall` (dark side).
"""
