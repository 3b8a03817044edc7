"""Queries: search by text, image or example, and questions answered from stored memory."""
