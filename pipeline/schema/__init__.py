"""Records, settings and errors that every folder shares. Needs neither Ray nor a model."""
