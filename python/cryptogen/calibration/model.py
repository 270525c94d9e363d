"""What `cryptogen calibrate` does: measures a model on text and on the stress text, makes the plan,
and checks it on texts of every class that it was not made from. A plan under which a class fails is
not written."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from cryptogen.errors import InputError, PlanError, PlanUnfaithful
from cryptogen.evaluate.texts import Faithful, Progress, Windows, canonical_of, cropped, faithful_texts
from cryptogen.numerics.plan import NumericPlan
from cryptogen.paths import read_text
from cryptogen.processes import in_processes
from cryptogen.tokens import Tokenizer
from cryptogen.weights import load
from cryptogen.weights.canonical import canonicalise

from . import stress
from .choose import plan_of
from .observe import Observation, observe

SHORT_ROWS = 256  # of a short text at most
# How mean squares are spread is not asked of these.
REPETITIVE = ("one-word", "few-words", "spaces", "pairs")
START = 16  # tokens of the short windows that show what first rows look like
TEXT = "text"  # the class of the caller's own text
CHAT = "chat"
CLASSES = (TEXT, *stress.names(), *stress.SHORT, CHAT)


def calibrate_model(
    path: str | Path,
    text_file: str | Path,
    windows: Sequence[int] = tuple(range(8, 12)),
    size: int = 512,
    context: int | None = None,
    progress: Progress | None = None,
    accept: Collection[str] = (),
) -> NumericPlan:
    """Calibrates a model on windows `tokens[size·i : size·(i+1)]` of a text file and on every class
    of the stress text.

    `context`: rows of a stress text, default the model's context; σ's windows depend on it. First
    rows see few others and are the most unlike the rest, so eight short windows inside each window
    are run as well. Then every class of stress text, made from another seed, and the window of the
    text behind the last are run by the integer oracle and compared with the float model: the
    figures become `statistics["classes"]`. `accept`: classes that may fail; how they do becomes
    `statistics["accepted"]`. Cost: a float pass over some 50 texts of `context` tokens, and one of
    the oracle and another over 30.

    Raises WeightsError (model), OSError (text), InputError (text that is not UTF-8, no such class),
    PlanError (text too short, model without a tokenizer), PlanUnfaithful.
    """
    checkpoint = load(path)
    tokenizer, config = checkpoint.tokenizer, checkpoint.config
    if tokenizer is None:
        raise PlanError("model", "a tokenizer beside the weights", str(path))
    if unknown := set(accept) - set(CLASSES):
        raise InputError(f"class {min(unknown)!r}, expected one of {', '.join(CLASSES)}")
    rows = context or config.context
    if rows > config.context:
        raise PlanError("context", f"up to {config.context} rows, the model's", rows)
    if size > config.context:
        raise PlanError("size", f"windows of up to {config.context} tokens, the model's context", size)
    tokens = tokenizer.encode(read_text(text_file, "calibration text"))
    needed = size * (max(windows) + 1) + 2  # what is behind the last window is checked
    if len(tokens) < needed:
        raise PlanError("calibration text", f"{needed} tokens for window {max(windows)} of {size}", len(tokens))
    chosen: list[tuple[str, Windows]] = [(TEXT, [tokens[size * i : size * (i + 1)]]) for i in windows]
    chosen += stress_tokens(tokenizer, rows).items()
    seen = Observation(config)
    parts = in_processes(partial(_observe, str(path)), [part for _, part in chosen])
    for done, ((name, _), part) in enumerate(zip(chosen, parts, strict=True), 1):
        seen.merge(part, ordinary=name not in REPETITIVE)
        if progress:
            progress("measuring texts", done, len(chosen))
    plan = plan_of(canonicalise(checkpoint), seen, model_digest=checkpoint.digest)
    unseen = {TEXT: [tokens[size * (max(windows) + 1) :][:rows]], **stress_tokens(tokenizer, rows, seed=1)}
    found = faithful_texts(str(path), plan, unseen, progress)
    faults = {name: result.faults() for name, result in found.items() if result.faults()}
    if refused := {name: why for name, why in faults.items() if name not in accept}:
        raise PlanUnfaithful(refused)
    return dataclasses.replace(plan, statistics=plan.statistics | {"classes": _figures(found), "accepted": faults})


def _observe(source: str, windows: Windows) -> Observation:
    """Windows and the starts inside them."""
    starts = [
        window[at : at + START]
        for window in windows
        if len(window) > START
        for at in range(0, len(window), max(len(window) // 8, START))
        if len(window[at:]) > 1
    ]
    return observe(canonical_of(source), [*windows, *starts])


def stress_tokens(tokenizer: Tokenizer, rows: int, seed: int = 0) -> dict[str, Windows]:
    """`rows` tokens of every class, in one window or in many short ones; of a chat too, if the
    model has a format."""
    classes = (*stress.names(), *((CHAT,) if tokenizer.chat is not None else ()), *stress.SHORT)
    return {name: _class_tokens(tokenizer, name, rows, seed) for name in classes}


def _class_tokens(tokenizer: Tokenizer, name: str, rows: int, seed: int) -> Windows:
    if name in stress.SHORT:
        return cropped((tokenizer.encode(text)[:SHORT_ROWS] for text in stress.short(name, seed)), rows)
    if name == CHAT:
        return [tokenizer.encode_chat(stress.conversation(8 * rows, seed))[:rows]]
    return [tokenizer.encode(stress.text(name, 8 * rows, seed))[:rows]]


def _figures(found: Mapping[str, Faithful]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "rows": f.rows, "perplexity": f.perplexity, "perplexity_float": f.perplexity_float,
            "agreement": f.agreement, "flagged": f.flagged, "largest_error": f.largest_error, "errors": f.errors,
        }
        for name, f in found.items()
    }  # fmt: skip
