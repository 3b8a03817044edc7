"""The HTML page that ``malmm report`` writes."""
