"""Job files: YAML that says what is to be done, when, and where."""
