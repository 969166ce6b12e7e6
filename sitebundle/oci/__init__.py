"""OCI transport: one client for pull and push (`client`), mirrors (`mirrors`), credentials, retry, limits.

Import the submodule that you need: this package imports nothing, so that a command starts quickly.
"""
