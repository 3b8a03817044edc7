"""Sandbox: read video files in child processes, which may crash or hang without harm."""
