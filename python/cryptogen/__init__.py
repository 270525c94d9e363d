"""CryptoGen: private text generation between a server that holds a model and a client that holds a
prompt.

    import cryptogen

    cryptogen.Server("path/to/model").serve("0.0.0.0:7766")  # on the model owner's machine

    with cryptogen.Client("host:7766", fingerprint="…") as client:  # on yours
        for token in client.generate("The capital of France is", max_new_tokens=8):
            print(token.text, end="", flush=True)

Errors are the classes of `cryptogen.errors`; the command line is `cryptogen --help`.
"""

import os
from typing import TYPE_CHECKING, Any

# The core's allocator keeps what was freed for a second: a layer needs again what the last one gave
# back, and fresh pages cost more than the arithmetic on them. Longer, and a process would hold what
# another phase needed (docs/decisions/0011-allocator.md). Read when the core is loaded.
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "1000")  # milliseconds

if TYPE_CHECKING:
    from .session import Client, Costs, Draft, Server, Token
    from .weights import load

__all__ = ["Client", "Costs", "Draft", "Server", "Token", "load"]


def __getattr__(name: str) -> Any:
    """Imported on first use: the researcher's side (models, numerics, evaluate) works without the
    Rust core."""
    if name == "load":
        from .weights import load

        return load
    if name in __all__:
        from . import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
