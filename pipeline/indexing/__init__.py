"""Runs: from sources to committed rows, and new texts from stored memory."""
