"""Small text files are on the disk when the functions that write them return."""

import errno
import os
from pathlib import Path

import pytest

from iot_models.text_files import sync_folder


@pytest.mark.parametrize("function", ["open", "fsync"])
def test_a_folder_that_can_t_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    sync_folder(tmp_path)
    for number in (errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EIO):

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, function, refuse)
            if number == errno.EIO:
                with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                    sync_folder(tmp_path)
            else:
                sync_folder(tmp_path)
