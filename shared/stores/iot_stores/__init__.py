"""Where readings are kept: backlog and hot window in Redis, vaults and history in Postgres.

Each file holds both sides of one store, the writing and the reading, so that the code that
writes a format and the code that reads it change together.
"""
