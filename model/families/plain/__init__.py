"""Shared by families without a Q-Former: a bank over projected tokens, chat templates, one prefill for many prompts."""
