"""What the services share: readings, segments, settings, errors, metrics and names."""
