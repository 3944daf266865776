"""Limits on what one client may use: slots, memory, requests a minute, guesses.

Here, a client is an address and a token name. This package uses neither `iot_api.vaults` nor Flask.
"""
