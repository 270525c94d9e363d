"""What `cryptogen calibrate` does: measures a model on text and on the stress text, makes the plan, and checks it on
texts of every class that it was not made from. A plan under which a class fails is not written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from cryptogen.errors import PlanError, PlanUnfaithful
from cryptogen.evaluate.texts import Faithful, Progress, canonical_of, faithful_texts
from cryptogen.numerics.plan import NumericPlan
from cryptogen.processes import in_processes
from cryptogen.tokens import Tokenizer
from cryptogen.weights import load
from cryptogen.weights.canonical import canonicalise

from . import stress
from .choose import plan_of
from .observe import Observation, observe

START = 16  # tokens of the short windows that show what first rows look like
TEXT = "text"  # the class of the caller's own text
CHAT = "chat"


def calibrate_model(
    path: str | Path,
    text_file: str | Path,
    windows: Sequence[int] = tuple(range(8, 12)),
    size: int = 512,
    context: int | None = None,
    progress: Progress | None = None,
) -> NumericPlan:
    """Calibrates a model on windows `tokens[size·i : size·(i+1)]` of a text file and on every class of the stress text.

    `context`: rows of a stress text, default the model's context; σ's windows depend on it. First rows see few others
    and are the most unlike the rest, so eight short windows inside each window are run as well. Then every class of
    stress text, made from another seed, and the window of the text behind the last are run by the integer oracle and
    compared with the float model: the figures become `statistics["classes"]`. Cost: two float passes and one of the
    oracle over some 30 texts of `context` tokens.

    Raises WeightsError (model), OSError (text), PlanError (text too short, model without a tokenizer), PlanUnfaithful.
    """
    checkpoint = load(path)
    tokenizer, config = checkpoint.tokenizer, checkpoint.config
    if tokenizer is None:
        raise PlanError("model", "a tokenizer beside the weights", str(path))
    rows = min(context or config.context, config.context)
    tokens = tokenizer.encode(Path(text_file).read_text(encoding="utf-8"))
    needed = size * (max(windows) + 1) + 2
    if len(tokens) < needed or size > config.context:
        raise PlanError("calibration text", f"{needed} tokens, in windows of up to {config.context}", len(tokens))
    chosen = [tokens[size * i : size * (i + 1)] for i in windows] + list(stress_tokens(tokenizer, rows).values())
    seen = Observation(config)
    for done, part in enumerate(in_processes(partial(_observe, str(path)), chosen), 1):
        seen.merge(part)
        if progress:
            progress("measuring texts", done, len(chosen))
    plan = plan_of(canonicalise(checkpoint), seen, model_digest=checkpoint.digest)
    unseen = {TEXT: tokens[size * (max(windows) + 1) :][:rows], **stress_tokens(tokenizer, rows, seed=1)}
    found = faithful_texts(str(path), plan, unseen, progress)
    if faults := {name: result.faults() for name, result in found.items() if result.faults()}:
        raise PlanUnfaithful(faults)
    return dataclasses.replace(plan, statistics=plan.statistics | {"classes": _figures(found)})


def _observe(source: str, window: Sequence[int]) -> Observation:
    """A window and the starts inside it."""
    step = max(len(window) // 8, START)
    starts = [window[j : j + START] for j in range(0, len(window), step) if len(window[j:]) > 1]
    return observe(canonical_of(source), [window, *starts])


def stress_tokens(tokenizer: Tokenizer, rows: int, seed: int = 0) -> dict[str, list[int]]:
    """The first `rows` tokens of every class; of a chat too, if the model has a chat format."""
    texts = {name: tokenizer.encode(stress.text(name, 8 * rows, seed))[:rows] for name in stress.names()}
    if tokenizer.chat is not None:
        texts[CHAT] = tokenizer.encode_chat(stress.conversation(8 * rows, seed))[:rows]
    return texts


def _figures(found: Mapping[str, Faithful]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "rows": f.rows, "perplexity": f.perplexity, "perplexity_float": f.perplexity_float,
            "agreement": f.agreement, "flagged": f.flagged, "largest_error": f.largest_error,
        }
        for name, f in found.items()
    }  # fmt: skip
