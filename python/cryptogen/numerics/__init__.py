"""Fixed-point numerics: the plan, its tables, quantisation and calibration."""

from .plan import Plan, tables, tables_digest
from .quantise import IntegerModel, quantise

__all__ = ["IntegerModel", "Plan", "quantise", "tables", "tables_digest"]
