"""All SQL: one file a table, its statements beside the mapper that reads them, and the unit of work."""
