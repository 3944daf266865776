"""`make faults`: break every part under load, then count every reading."""
