"""The writer: RQ jobs that encrypt the readings of the backlog and store them.

This level runs jobs: worker, jobs, ticker, schema. The work of a job is in a package.
"""
