"""How good a backend is: perplexity of a text, agreement of its tokens with the reference."""

from cryptogen.evaluate.agreement import NEAR_TIE, Agreement, Disagreement, agreement, compare
from cryptogen.evaluate.perplexity import Perplexity, mean_nll, perplexity, windows

__all__ = [
    "NEAR_TIE", "Agreement", "Disagreement", "Perplexity", "agreement", "compare", "mean_nll", "perplexity", "windows",
]  # fmt: skip
