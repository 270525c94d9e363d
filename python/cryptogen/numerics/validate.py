"""Runs the integer oracle once with a fresh plan and records what left its window."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cryptogen.backends.fixed import FixedBackend
from cryptogen.backends.rounding import Random
from cryptogen.models.canonical import Canonical
from cryptogen.models.decoder import forward

from .plan import Plan
from .quantise import quantise


def with_events(plan: Plan, model: Canonical, window: Sequence[int]) -> Plan:
    """The plan with `statistics.events`: out-of-window events by kind over the tokens of one window (all layers)."""
    backend = FixedBackend(quantise(model, plan), plan, Random(np.random.default_rng(0)))
    forward(backend, model.config, window, "last")
    found = {"events": dict(sorted(backend.events.items())), "events_tokens": len(window)}
    return dataclasses.replace(plan, statistics=plan.statistics | found)
