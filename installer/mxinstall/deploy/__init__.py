"""Putting the stack on the cluster and keeping account of it: fencing, journal, inventory, secrets, releases."""
