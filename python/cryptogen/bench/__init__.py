"""Measurements: every figure of the README is made by a command here."""
