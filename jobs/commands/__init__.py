"""One command of ``malmm`` a file."""
