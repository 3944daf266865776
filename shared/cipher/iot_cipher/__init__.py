"""Who can read what: keyring, vaults, sealed queue entries, encrypted segments.

Nothing here is a construction of our own: AES-256-GCM, HKDF and scrypt from `cryptography`.
"""
