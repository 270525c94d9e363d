"""Fixed-point numerics: the plan, its tables, quantisation and calibration."""

from .document import PlanError
from .plan import Plan, tables, tables_digest
from .quantise import IntegerModel, quantise

__all__ = ["IntegerModel", "Plan", "PlanError", "quantise", "tables", "tables_digest"]
