"""Drawn videos to try things on."""
