"""Print the ten slowest tests of some runs: `python -m support.slowest REPORT.xml ...`."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def slowest(reports: list[Path], count: int = 10) -> list[tuple[float, str]]:
    """Return seconds and name of the slowest tests, with setup and teardown, from JUnit reports."""
    durations = [
        (float(case.get("time", 0)), f"{case.get('classname')}::{case.get('name')}")
        for report in reports
        for case in ET.parse(report).iter("testcase")  # noqa: S314 - pytest wrote it
    ]
    return sorted(durations, reverse=True)[:count]


if __name__ == "__main__":
    print("The ten slowest tests:")
    for seconds, test in slowest([Path(path) for path in sys.argv[1:]]):
        print(f"{seconds:7.1f} s  {test}")
