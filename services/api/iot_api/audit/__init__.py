"""Events that API processes add to the audit log: refused access, limits, reads, token changes."""
