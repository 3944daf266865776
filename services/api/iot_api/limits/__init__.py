"""Limits on what one client may use: slots, memory, requests a minute, guesses.

This package identifies clients by address and token name. It uses neither `iot_api.vaults` nor
Flask.
"""
