"""The drain: take entries from the backlog, decrypt them, build segments, store them exactly once.

One drain is one transaction of Postgres.
"""
