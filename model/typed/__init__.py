"""Answers that follow a JSON schema: which schemas are possible, and decoding under one."""
