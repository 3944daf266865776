"""The bench is a package beside `tests`; and one run of it, of tiny size, for all its tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
