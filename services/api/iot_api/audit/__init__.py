"""Events that API processes add to the audit log: refused access, changed tokens and reads."""
