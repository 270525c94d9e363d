"""How the two parties recognise each other. A server that nobody vouches for is never trusted
silently."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptogen import _core
from cryptogen.errors import InputError, WrongFingerprint
from cryptogen.paths import KnownServers

NOBODY = "0" * 64  # a fingerprint that no certificate has


@dataclass(frozen=True)
class Trust:
    """A pinned fingerprint, or certificates that `ca_file` signed; the token that the server asks
    for."""

    fingerprint: str | None
    ca_file: str | None
    access_token: str | None

    def pinned(self, address: str, known: KnownServers) -> str | None:
        """The fingerprint to expect, or None where certificates decide.

        `WrongFingerprint` names what an unknown server shows, `InputError` if the given one is
        malformed.
        """
        if self.fingerprint is not None:
            plain = self.fingerprint.replace(":", "").strip().lower()
            if not re.fullmatch(r"[0-9a-f]{64}", plain):
                raise InputError(f"fingerprint: 64 hexadecimal digits expected, {self.fingerprint[:80]!r} given")
            return plain
        if self.ca_file is not None:
            return None
        if (remembered := known.get(address)) is not None:
            return remembered
        raise WrongFingerprint(
            f"no fingerprint is known for {address}; it shows {_shown(address)}. "
            "Compare with what the server printed, then give it once as --fingerprint"
        )


def _shown(address: str) -> str:
    """What a server presents, found by expecting something impossible: the handshake ends before
    anything is said."""
    try:
        _core.ClientConnection.connect(address, NOBODY, None).hello("stranger", None)
    except WrongFingerprint as error:
        return next((f for f in re.findall(r"[0-9a-f]{64}", str(error)) if f != NOBODY), "none")
    return "none"
