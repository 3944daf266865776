"""Where readings are kept: backlog and hot window in Redis, vaults and history in Postgres.

Each file holds both sides of one store, the writing and the reading, so that what is written and
what is read can't come apart.
"""
