"""The measures: each takes the stage, and adds to its results."""
