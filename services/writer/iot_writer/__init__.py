"""The writer: RQ jobs that encrypt what waits in the backlog and store it."""
