"""The schema and its history. `app.db.migrate` runs it; nothing else touches tables."""
