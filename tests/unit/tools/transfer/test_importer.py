"""What an import does while its temporary disk is full."""

from pathlib import Path

import pytest

from iot_models.errors import IotError
from iot_sensor_client import Client
from iot_tools.transfer.import_plan import ImportPlan
from iot_tools.transfer.import_sources import NdjsonFile
from iot_tools.transfer.importer import Importer


class SmallPlan(ImportPlan):
    """A plan whose temporary file may have two pages."""

    def __init__(self) -> None:
        super().__init__()
        self._database.execute("PRAGMA max_page_count = 2")


def test_a_full_temporary_disk_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iot_tools.transfer.importer.ImportPlan", SmallPlan)
    file = tmp_path / "in.ndjson"
    file.write_text('{"absolute_timestamp": "2020-01-01 00:00:00", "freeform": 1}\n' * 500)
    with Client("http://127.0.0.1:1") as client:
        importer = Importer(client, NdjsonFile(file, "p"), "p", lambda *_: None)
        with pytest.raises(IotError, match=r"^the temporary file .* disk is full; free some disk"):
            importer.run()
