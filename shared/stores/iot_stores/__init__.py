"""Where readings are kept: backlog and hot window in Redis, vaults and history in Postgres.

The code that writes a format and the code that reads it are in the same file, so that they change
together.
"""
