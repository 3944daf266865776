"""The writer: RQ jobs that encrypt the readings of the backlog and store them.

This level runs jobs: worker, jobs, ticker, schema. What a job does is in a package.
"""
