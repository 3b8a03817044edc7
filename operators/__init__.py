"""Operators: Ray Data callables, one a file, named by their verb."""
