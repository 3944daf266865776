"""Events that API processes add to the audit log: refused access, reached limits, reads, and
changes of tokens.
"""
