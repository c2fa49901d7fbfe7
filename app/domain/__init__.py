"""The rules, without I/O: what batches and uploads are, how they move, how they are counted."""
