"""Where readings are kept: backlog and hot window in Redis, vaults and history in Postgres.

A file has both the code that writes a format and the code that reads it, so that the two change
together.
"""
