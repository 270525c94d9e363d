"""The researcher's side, without a second party: the float model, and the protocol's integers in
the clear.

    python examples/clear_models.py MODEL "The capital of France is"
"""

import sys

import numpy as np

import cryptogen
from cryptogen.backends.fixed import FixedBackend
from cryptogen.backends.float import FloatBackend
from cryptogen.backends.rounding import Random
from cryptogen.models.decoder import forward
from cryptogen.numerics import quantise
from cryptogen.session.plans import find_plan
from cryptogen.weights.canonical import canonicalise


def main(path: str, prompt: str) -> None:
    model = cryptogen.load(path)
    plan = find_plan(model)
    tokens = model.tokenizer.encode(prompt)
    weights = quantise(canonicalise(model), plan)
    exact = forward(FloatBackend(model), model.config, tokens)
    integer = forward(FixedBackend(weights, plan, Random(np.random.default_rng())), model.config, tokens)
    print("float prefers", exact[0].argmax(), "- integers prefer", integer[0].argmax())
    print(f"largest difference of a logit: {np.abs(exact - integer).max():.4f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
