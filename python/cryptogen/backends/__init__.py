"""Backends of the decoder: float (reference), fixed (bit-exact oracle), private (two parties)."""
