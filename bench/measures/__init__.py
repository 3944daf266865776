"""The measures. Each takes the stage and adds figures to its results."""
