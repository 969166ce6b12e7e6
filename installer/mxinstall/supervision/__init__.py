"""Keeping one program running on a host without systemd, and recognising processes again.

Nothing is imported here: the supervisor stays for years and should weigh little.
"""
