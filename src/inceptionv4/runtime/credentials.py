"""Passwords in addresses, which neither messages nor results may repeat."""

from __future__ import annotations

import re

CREDENTIALS = re.compile(r"(?<=://)(?:[^/?#\s]*@|[^/?#\s:\[]*:(?!\d*(?:[/?#\s]|$))\S*@)")
"""`user:password@` before a host (RFC 3986, 3.2.1), also where the password has a slash that it should not have."""


def has_credentials(address: str) -> bool:
    """True if an address or URI names a user before its host. What its path holds does not count."""
    return CREDENTIALS.match(address, address.find("://") + 3) is not None


def hide_credentials(text: str) -> str:
    """A text whose addresses have `***@` for a user and a password."""
    return CREDENTIALS.sub("***@", text)
