"""Did a private run choose the clear model's tokens? The clear model is asked along the private
run's own text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cryptogen.backends.float import FloatBackend
from cryptogen.evaluate.agreement import EXCUSED_LEAD, Disagreement
from cryptogen.models.decoder import forward
from cryptogen.weights import Checkpoint


@dataclass(frozen=True)
class Fidelity:
    """Greedy tokens against the float model's best."""

    tokens: int
    disagreements: tuple[Disagreement, ...]

    @property
    def violations(self) -> tuple[Disagreement, ...]:
        """Disagreements that no near tie excuses."""
        return tuple(d for d in self.disagreements if not d.tolerated)

    def __str__(self) -> str:
        equal = self.tokens - len(self.disagreements)
        ties = len(self.disagreements) - len(self.violations)
        note = f" ({ties} where the clear model's two best differ by less than {EXCUSED_LEAD})" if ties else ""
        return f"agreement with the clear model: {equal}/{self.tokens} tokens{note}"


def fidelity(model: Checkpoint, prompt: Sequence[int], generated: Sequence[int]) -> Fidelity:
    """One float pass over prompt and answer: row t's best logit against the token that followed
    it."""
    backend = FloatBackend(model)
    logits = forward(backend, model.config, [*prompt, *generated[:-1]], want="all")
    assert logits is not None  # want="all"
    found = []
    for step, (row, token) in enumerate(zip(logits[len(prompt) - 1 :], generated, strict=True)):
        best = int(row.argmax())
        if best != token:
            two = np.partition(row, -2)[-2:]
            found.append(Disagreement(step, best, token, float(two[1] - two[0])))
    return Fidelity(len(generated), tuple(found))
