"""`python -m bench.model_costs`: copies the constants of results.json into the capacity model."""

from .figures import ROOT
from .measures.constants import SECTION
from .recorded import Recorded, recorded

MODULE = ROOT / "tools" / "iot_tools" / "capacity" / "measured.py"


def module(results: Recorded) -> str:
    """Return the text of `iot_tools/capacity/measured.py`."""
    lines = [
        f'    "{name}": {value},' for name, value in results.content["details"][SECTION].items()
    ]
    return "\n".join([
        '"""Constants of the capacity model, measured by `make bench`, copied by `make docs`."""',
        "",
        "MEASURED: dict[str, float] = {",
        *lines,
        "}",
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    MODULE.write_text(module(recorded()), encoding="utf-8")
