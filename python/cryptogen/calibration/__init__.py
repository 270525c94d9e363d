"""From a model and public text to a numeric plan, and the check that the plan follows the model."""

from .choose import Margins, calibrate
from .model import calibrate_model

__all__ = ["Margins", "calibrate", "calibrate_model"]
