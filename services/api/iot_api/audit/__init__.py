"""Events that API processes add to the audit log: refused access, reached limits, changed tokens
and reads.
"""
