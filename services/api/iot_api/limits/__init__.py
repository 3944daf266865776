"""Limits on what one client may use: turns, memory, large requests, guesses.

Knows clients by address and token name; knows nothing of vaults, stores or Flask views.
"""
