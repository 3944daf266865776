"""Find, create, open, restore and erase the vaults of passwords, and plan their compaction.

Only API processes have the data keys of vaults, in the cache of this package.
"""
