"""Annotation files, one module a form in which they are published."""
