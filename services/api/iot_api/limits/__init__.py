"""What one client may take from the others: turns, memory, large requests, guesses.

Knows clients by address and token name; knows nothing of vaults, stores or Flask views.
"""
