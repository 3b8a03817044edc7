"""Copies among an archive's videos, found by the vectors of their slots alone."""
