"""The browser example that transcribes: the text of the page is torch's. Needs Chromium and onnxruntime-web, as `test_browser_example`."""

from __future__ import annotations

import functools
import shutil
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import soundfile
import torch

from sottovoce.exporting.api import export
from sottovoce.hosts.load import load_host
from tests.unit.test_export_whole import made

from .test_browser_example import CHROMIUM, RUNTIME, Quiet
from .test_browser_example import pytestmark as pytestmark

PAGE = Path(__file__).parents[2] / "examples" / "browser-transcribe" / "index.html"


@pytest.mark.parametrize("kind", ["moonshine", "ctc"])
def test_a_recording_is_transcribed(kind: str, tmp_path: Path, speech_folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    source = made(kind, tmp_path / "host")
    export(source, out=tmp_path / "site" / "model", data=speech_folder, seconds=1)
    shutil.copy(PAGE, tmp_path / "site")
    (tmp_path / "site" / "ort").symlink_to(RUNTIME.resolve())
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = f"http://127.0.0.1:{server.server_port}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(300_000)  # a busy machine is slow
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url.startswith((site, "blob:", "data:")) or faults.append(request.url))
        page.goto(f"{site}?ort=ort/")
        page.get_by_text("is open. Choose a recording").wait_for()
        page.set_input_files("#audio", str(speech_folder / "00.wav"))
        page.get_by_text("transcribed in").wait_for()
        text = page.inner_text("#text")
        browser.close()
    server.shutdown()
    server.server_close()
    assert faults == []
    host = load_host(source)
    assert host is not None
    wave, _ = soundfile.read(speech_folder / "00.wav", dtype="float32")
    options = {"max_new_tokens": 26} if kind == "moonshine" else {}
    assert text.split() == host.transcribe(torch.from_numpy(wave)[None], **options)[0].split()
    assert text
