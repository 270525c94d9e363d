"""The three protocols of a session. The client chooses one when it connects; the server follows.

`preprocessed`: linear layers and attention are prepared offline, on masks. `encrypted-cache`
(CryptoGen): both under encryption, online, keys and values in an encrypted cache that is appended
to. `recompute` (BOLT, made to generate): the same layers without a cache, the whole text again for
every token. Everything else is the same code and material.
"""

from __future__ import annotations

from cryptogen.errors import UnknownProtocol

PREPROCESSED, ENCRYPTED_CACHE, RECOMPUTE = "preprocessed", "encrypted-cache", "recompute"
PROTOCOLS = (PREPROCESSED, ENCRYPTED_CACHE, RECOMPUTE)


def check_protocol(name: object) -> str:
    """The name, or `UnknownProtocol`."""
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise UnknownProtocol(str(name)[:40], PROTOCOLS)
    return name


def store_name(pair: str, protocol: str) -> str:
    """Folder of a pair's store: material of one protocol is of no use to another, its rows hold
    other things."""
    return pair if protocol == PREPROCESSED else f"{pair}-{protocol}"
