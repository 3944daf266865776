"""From a password to an open vault: lookup, scrypt, cache, repair; and its compaction orders.

Data keys of vaults exist in this package's cache and nowhere else in the service.
"""
