"""PostgreSQL: the pool, the feed of notifications, migrations, and the embedded server."""
