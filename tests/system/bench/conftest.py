"""Add the bench, a package beside `tests`, to the import path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
