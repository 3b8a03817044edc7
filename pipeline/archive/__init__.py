"""The archive, one LanceDB database: reading, exactly-once writing, compaction and indexes."""
