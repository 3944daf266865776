"""`make faults` injects faults into every part under load, and then checks every reading."""
