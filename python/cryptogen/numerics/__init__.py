"""Fixed-point numerics: the plan, its tables, quantisation and calibration."""

from .plan import NumericPlan, tables, tables_digest
from .quantise import IntegerModel, quantise

__all__ = ["IntegerModel", "NumericPlan", "quantise", "tables", "tables_digest"]
