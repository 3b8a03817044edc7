"""The driver of a run: from sources to committed rows, and new texts from stored memory."""
