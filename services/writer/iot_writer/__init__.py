"""The writer: RQ jobs that encrypt the readings of the backlog and store them.

The modules `rq_worker`, `jobs` and `ticker` run the jobs. The packages `drain`, `compaction` and
`maintenance` do their work. `schema` migrates the database.
"""
