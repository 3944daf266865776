"""The live page as the API serves it: its files, their caching, and what the browser may do."""

import gzip
import re
from collections.abc import Callable

import pytest
import zstandard

from integration.api.asking import Api, assert_error
from integration.api.conftest import MakeApi
from iot_api.page import files
from iot_api.page.files import PAGE, POLICY, page_files

_CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.decompress,
    "zstd": zstandard.decompress,
}
FIRST_PAINT_BYTES = 100_000


def referenced(text: str) -> set[str]:
    """Return the names of the assets that the page loads, directly or by an import."""
    own = re.findall(r'(?:src|href)="assets/([^"]+)"', text)
    return {*own, *re.findall(r'from "\./([^"]+)"', text)}


def test_the_browser_runs_and_loads_nothing_else(module_api: Api) -> None:
    answer = module_api.ask("GET", "/")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    policy = answer.headers["Content-Security-Policy"]
    assert policy == POLICY
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not re.search(r"<style|style=|<script>|\son\w+=|https?://", answer.text)


def test_every_file_is_served_and_used(module_api: Api) -> None:
    pages = page_files()
    used = {PAGE}
    for name, file in pages.items():
        used |= referenced(file.bodies[None].decode())
        if name != PAGE:
            answer = module_api.ask("GET", f"/assets/{name}")
            assert (answer.status_code, answer.content_type) == (200, file.media_type)
            assert answer.data == file.bodies[None]
    assert used == set(pages)
    modules = {name for name in pages if name.endswith(".js")}
    preloaded = set(re.findall(r'"assets/([^"]+\.js)"', pages[PAGE].bodies[None].decode()))
    assert preloaded == modules


def test_the_first_paint_is_small() -> None:
    assert sum(len(file.bodies["gzip"]) for file in page_files().values()) < FIRST_PAINT_BYTES


@pytest.mark.parametrize("coding", _CODINGS)
def test_files_are_compressed(module_api: Api, coding: str) -> None:
    answer = module_api.ask("GET", "/assets/main.js", headers={"Accept-Encoding": coding})
    assert answer.headers.get("Content-Encoding", "") == coding
    assert answer.headers["Vary"].startswith("Accept-Encoding")
    assert _CODINGS[coding](answer.data) == page_files()["main.js"].bodies[None]


@pytest.mark.parametrize("path", ["/", "/assets/page.css"])
def test_a_browser_asks_whether_a_file_is_the_same(module_api: Api, path: str) -> None:
    first = module_api.ask("GET", path)
    assert first.headers["Cache-Control"] == "no-cache"
    known = {"If-None-Match": first.headers["ETag"], "Accept-Encoding": "gzip"}
    again = module_api.ask("GET", path, headers=known)
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    other = module_api.ask("GET", path, headers={"If-None-Match": 'W/"other"'})
    assert other.status_code == 200


def test_a_failed_precondition_is_an_error(module_api: Api) -> None:
    """The answer used to have the file as its body."""
    answer = module_api.ask("GET", "/assets/page.css", headers={"If-Match": '"other"'})
    assert_error(answer, 412, "invalid_request")
    assert "ETag" not in answer.headers


@pytest.mark.parametrize("name", ["page.html", "..%2Ffiles.py", "../files.py", "none.js"])
def test_other_paths_have_no_file(module_api: Api, name: str) -> None:
    assert_error(module_api.ask("GET", f"/assets/{name}"), 404, "not_found")


def test_the_page_can_be_switched_off(make_api: MakeApi) -> None:
    api = make_api(page=0)
    for path in ("/", "/assets/main.js"):
        assert_error(api.ask("GET", path), 404, "not_found")


def test_another_uplot_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(files.UPLOT_SHA256, "uplot.iife.min.js", "0" * 64)
    with pytest.raises(ValueError, match="not the published file of uPlot"):
        page_files.__wrapped__()
