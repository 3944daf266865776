"""Encryption: keyring, vaults, entries, orders, segments, tokens.

All primitives come from the library `cryptography`: AES-256-GCM, HKDF-SHA256 and scrypt.
"""
