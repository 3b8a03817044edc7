"""What flows through an indexing run, in what order, and the archive that it ends in.

This package imports nothing heavy by itself: records, configuration and errors are leaves that the
operators share, and the names below load on first use, so that reading an archive needs neither Ray nor a
model.
"""
