"""How good a backend is: perplexity of a text, agreement of its tokens with the reference."""

from cryptogen.evaluate.agreement import EXCUSED_LEAD, Agreement, Disagreement, agreement, compare
from cryptogen.evaluate.perplexity import Perplexity, mean_nll, perplexity, windows

__all__ = [
    "EXCUSED_LEAD", "Agreement", "Disagreement", "Perplexity", "agreement", "compare", "mean_nll", "perplexity",
    "windows",
]  # fmt: skip
