"""What the services share: readings, entries, segments, settings, errors, metrics and names."""
