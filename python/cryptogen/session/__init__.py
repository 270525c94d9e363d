"""Two parties over a connection: `Server` holds a model, `Client` a prompt."""

from .client import Client
from .costs import Costs, PhaseCost
from .draft import Draft, DraftStats
from .material import Need
from .rows import Rows, Token
from .server import Server

__all__ = ["Client", "Costs", "Draft", "DraftStats", "Need", "PhaseCost", "Rows", "Server", "Token"]
