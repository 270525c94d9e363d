"""Finding the numeric plan of a model: given, beside the model, or shipped with the package."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

from cryptogen.errors import MissingFile, MissingPlan, PlanRejected
from cryptogen.numerics.plan import NumericPlan
from cryptogen.weights.checkpoint import Checkpoint


def beside(model: Path) -> Path:
    """Where `cryptogen calibrate` stores a model's plan: `<model>.plan.json`."""
    whole = Path(os.path.abspath(model))  # "." has no name
    return whole.with_name(f"{whole.name}.plan.json")


def find_plan(checkpoint: Checkpoint, plan: NumericPlan | str | Path | None = None) -> NumericPlan:
    """The plan to serve a checkpoint with. `MissingPlan`, `PlanRejected` if it is for another
    model, `PlanError`."""
    if isinstance(plan, NumericPlan):
        return _fitting(plan, checkpoint, "the plan")
    if plan is not None:
        path = Path(plan)
        if not path.exists():
            raise MissingFile(path, "plan")
        return _fitting(NumericPlan.load(path), checkpoint, str(path))
    if (path := beside(checkpoint.source)).exists():
        return _fitting(NumericPlan.load(path), checkpoint, str(path))
    folder = resources.files("cryptogen").joinpath("plans")
    for shipped in folder.iterdir() if folder.is_dir() else ():
        if not shipped.name.endswith(".json"):
            continue
        text = shipped.read_text(encoding="utf-8")
        if json.loads(text).get("model_digest") == checkpoint.digest:
            return NumericPlan.from_json(text)
    raise MissingPlan(
        f"no numeric plan for {checkpoint.source}: make one with `cryptogen calibrate {checkpoint.source} --text FILE`"
    )


def _fitting(plan: NumericPlan, checkpoint: Checkpoint, name: str) -> NumericPlan:
    """An empty digest (a plan made in memory) fits any model of its shape; `quantise` checks the
    shape."""
    if plan.model_digest not in ("", checkpoint.digest):
        raise PlanRejected(f"{name} is for model {plan.model_digest[:16]}…, this model is {checkpoint.digest[:16]}…")
    return plan
