"""All SQL: one file a table, its statements beside the mapper that reads them, and the unit of work.

A statement is planned when it is first used, and PostgreSQL keeps the plan while the tables grow from nothing to
millions of rows. So the statements leave a planner one way, whatever it takes the tables for; beside the settings of
`app.db.pool`, by these forms:

- `a IS NOT DISTINCT FROM b` is `a = b` for which no index is used: of the owner of what is found by its id, and of a
  state that would lead to an index of all that is in it.
- `v.id IS NOT DISTINCT FROM v.id` is always true, and is taken to be true of one row: what is joined to `v` is then
  looked up row by row, and not read through.
- `ORDER BY` the columns of the index that is meant, also where the order matters to nobody.
- A subquery with LIMIT, which no planner turns into a join.
"""
