"""The browser example on a recording and on a (pretended) microphone. Needs Chromium, and `npm install` in examples/browser."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "browser"
RUNTIME = Path(os.environ.get("ORT_WEB", FOLDER / "node_modules" / "onnxruntime-web" / "dist"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.skipif(not (RUNTIME / "ort.wasm.min.js").exists(), reason="onnxruntime-web is not installed in examples/browser"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, speech_folder: Path) -> Iterator[str]:
    from sottovoce.exporting.api import export

    folder = tmp_path_factory.mktemp("site")
    export(teacher_folder, out=folder, precision="int8", layer="all", data=speech_folder, seconds=5)
    shutil.copy(FOLDER / "index.html", folder)
    (folder / "node_modules" / "onnxruntime-web").mkdir(parents=True)
    (folder / "node_modules" / "onnxruntime-web" / "dist").symlink_to(RUNTIME.resolve())
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_features_of_a_recording_and_of_the_microphone(served: str, speech_folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    pretended = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *pretended])
        page = browser.new_page()
        page.set_default_timeout(300_000)  # a busy machine is slow
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url.startswith((served, "blob:", "data:")) or faults.append(request.url))
        page.goto(served)
        page.get_by_text("model.onnx is open").wait_for()
        page.set_input_files("#audio", str(speech_folder / "00.wav"))
        page.get_by_text("frames of 32 numbers, 4 layers").wait_for()
        assert "00.wav" in page.inner_text("#says")
        assert page.evaluate("document.getElementById('picture').height") == 32
        assert page.locator("#layer option").count() == 4
        assert page.evaluate("new Set(last.data).size") > 1000
        page.click("#microphone")
        page.get_by_text("microphone: 2.0 s, 99 frames").wait_for()
        page.get_by_role("button", name="Stop").click()
        browser.close()
    assert faults == []
