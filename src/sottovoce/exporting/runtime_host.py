"""The files of a whole host, run by onnxruntime: raw audio in, text out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.exporting.proto import library
from sottovoce.exporting.whole import DECODER, ENCODER, TOKENS
from sottovoce.hub.folder import ABOUT

Wave = NDArray[np.float32]


class RuntimeHost:
    """Transcribes with the files in `folder`, one recording at a time, greedily; the programs in ``examples/`` do the same."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        runtime = library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3

        def opened(name: str) -> Any:
            return runtime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])

        self.about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        self.decoding: dict[str, Any] = self.about["decoding"]
        self.tokens: list[str] = json.loads((folder / TOKENS).read_text(encoding="utf-8"))
        self.encoder = opened(ENCODER)
        self.decoder = opened(DECODER) if (folder / DECODER).is_file() else None

    def transcribe(self, wave: Wave, language: str = "", task: str = "transcribe") -> str:
        """The text of one recording, (S,) 16 kHz as decoded. language: a code; needed by hosts of many languages."""
        outputs, frames = self.encoder.run(None, {"wave": wave[None], "lengths": np.array([len(wave)])})
        if self.decoder is None:
            ids = outputs[0, : int(frames[0])].argmax(-1).tolist()
            new = [i for i, before in zip(ids, [-1, *ids], strict=False) if i != before and i != self.decoding["blank"]]
            return self.text(new)
        return self.text(self.greedy(outputs, frames, self.prompt(language, task), self.most(len(wave) / SAMPLE_RATE)))

    def prompt(self, language: str, task: str) -> list[int]:
        """The tokens that the decoder is given. ValueError for a language that it does not know."""
        known, rules = self.decoding["languages"], self.decoding
        if known and language not in known:
            raise ValueError(f"give the language that is spoken: {', '.join(sorted(known))}")
        asked = [known[language], rules["tasks"][task]] if known else []
        return [*rules["start"], *asked, *rules["without_times"]]

    def most(self, seconds: float) -> int:
        """The most tokens of so much audio."""
        rules = self.decoding
        return min(rules["most_tokens"], max(rules["fewest_tokens"], math.ceil(rules["tokens_per_second"] * seconds)))

    def greedy(self, cross: NDArray[np.float32], frames: NDArray[np.int64], given: Sequence[int], most: int) -> list[int]:
        """The likeliest token after the other, until the end."""
        assert self.decoder is not None
        rules = self.decoding
        names = {item.name for item in self.decoder.get_inputs()}
        past = np.zeros((*cross.shape[:3], 0, cross.shape[4]), dtype=np.float32)
        tokens, written = np.array([given]), list[int]()
        while len(written) < most:
            inputs = {"tokens": tokens, "past": past, "cross": cross, "frames": frames}
            logits, past = self.decoder.run(None, {name: value for name, value in inputs.items() if name in names})
            logits[:, rules["never"]] = -np.inf
            if not written:
                logits[:, rules["not_first"]] = -np.inf
            token = int(logits[0].argmax())
            if token == rules["end"]:
                break
            written.append(token)
            tokens = np.array([[token]])
        return written

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return "".join(self.tokens[i] for i in ids).encode("latin-1").decode("utf-8", "replace").strip()
