"""What docs repeat of the code agrees with it."""

from pathlib import Path

from iot_models.settings import describe

ROOT = Path(__file__).parents[2]


def test_docs_list_every_setting_as_it_is() -> None:
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| IOT_")
    ]
    assert rows == [list(row) for row in describe()], "run `make docs`"


def test_docs_name_files_that_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|") and "`" in line]
    named = [
        word for line in table for word in line.split("`")[1::2] if word.startswith(("s", "t"))
    ]
    paths = [word for word in named if "/" in word]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []
