"""Names and paths in every disguise: none is anything but the model's own name, and no file is ever opened."""

from __future__ import annotations

import builtins
import io
import os
import re
from typing import Any

import pytest
from climbs import CLIMBS
from running import Running

from inceptionv4.serving.page import load_page


@pytest.mark.parametrize("climb", CLIMBS, ids=range(len(CLIMBS)))
def test_nothing_is_there_and_nothing_is_read(
    narrow_server: Running, climb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def watch(module: Any, name: str) -> None:
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda file, *rest, **more: opened.append(file) or original(file, *rest, **more)
        )

    for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "stat"), (os, "scandir")):
        watch(module, name)
    for method, path in (
        ("GET", f"/{climb}"),
        ("GET", f"/v2/{climb}"),
        ("GET", f"/v2/models/{climb}"),
        ("GET", f"/v2/models/{climb}/ready"),
        ("POST", f"/v2/models/{climb}/infer"),
        ("GET", f"/v2/models/inceptionv4/versions/{climb}"),
        ("POST", f"/v2/models/inceptionv4/versions/{climb}/infer"),
        ("GET", f"/page/{climb}"),
        ("GET", f"/static/{climb}"),
        ("POST", f"/predict/{climb}"),
    ):
        reply = narrow_server.ask(method, path)
        assert reply.status == 404, path
        assert set(reply.json) == {"error"}
        assert b"root:" not in reply.body
        assert "x-evil" not in reply.headers
    assert opened == []


def test_other_methods_are_refused(narrow_server: Running) -> None:
    for method, path in (("GET", "/predict"), ("POST", "/"), ("PUT", "/v2"), ("GET", "/v2/models/inceptionv4/infer")):
        reply = narrow_server.ask(method, path)
        assert reply.status == 405
        assert "error" in reply.json
        assert reply.headers["allow"]


def test_the_page_is_one_file_that_asks_nobody_else(narrow_server: Running) -> None:
    reply = narrow_server.ask("GET", "/")
    assert reply.headers["content-type"].startswith("text/html")
    page = reply.body.decode()
    assert page == load_page().content
    assert not re.search(r"https?://|<link|<img[^>]*src|url\(|@import| on\w+=\"|style=\"|innerHTML|eval\(", page)
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert narrow_server.ask("HEAD", "/").body == b""
    for path in re.findall(r'fetch\("([^"?]+)', page):
        assert narrow_server.ask("POST", f"/{path}", b"").status == 400  # it is there, and wants an image
