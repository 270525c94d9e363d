"""Two parties over a connection: `Server` holds a model, `Client` a prompt."""

from .client import Client, Token
from .costs import Costs, PhaseCost
from .server import Server

__all__ = ["Client", "Costs", "PhaseCost", "Server", "Token"]
