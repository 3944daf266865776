"""What an API process adds to the audit log besides changes of vaults: refused access, tokens that
were added or removed, and reads.
"""
