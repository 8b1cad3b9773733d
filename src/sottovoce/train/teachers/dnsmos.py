"""Speech quality by DNSMOS P.835 (Reddy, Gopal, Cutler 2022, arXiv 2110.01763)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sottovoce.core.extras import optional
from sottovoce.core.registry import TEACHER_KINDS
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.objectives import EncoderShape
from sottovoce.train.teachers.base import Teacher, TeacherSettings
from sottovoce.train.teachers.judge import Judge

WINDOW = round(9.01 * SAMPLE_RATE)  # samples that the network hears at a time
# raw outputs -> the scale of listeners, highest power first: signal, background, overall
CURVES = (
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)


@TEACHER_KINDS.register("dnsmos")
class DnsMos(Judge):
    """Three numbers for a recording, each from about 1 to 5: quality of the voice, of the background, and overall.

    An ONNX graph, run by ONNX Runtime (the extra `onnx`) on the CPU in float32. It hears 9.01 s at a time, every second; shorter recordings
    are repeated.
    """

    package = "speechmos==0.0.1.1"
    file = "dnsmos_models/sig_bak_ovr.onnx"
    licence = "MIT"
    scores = ("voice", "background", "overall")

    @dataclass(frozen=True)
    class Config(Teacher.Config):
        """source: the ONNX file, or ``speechmos``, the package that carries it."""

        source: str = "speechmos"

    def __init__(self, config: Any, settings: TeacherSettings) -> None:
        super().__init__(config, settings)
        self.path  # noqa: B018  # said now if it is missing, not in the first update

    @property
    def shape(self) -> EncoderShape:
        return EncoderShape(3, 0)

    @cached_property
    def session(self) -> Any:
        runtime = optional("onnxruntime", "onnx", "a teacher of kind dnsmos")
        try:
            options = runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            return runtime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as problem:
            raise ValueError(f"{self.path} is no ONNX graph that ONNX Runtime opens: {problem}") from None

    def judge(self, waves: Tensor) -> Tensor:
        """(N, S) -> (N, 3)."""
        rows = waves.cpu()
        while rows.shape[1] < WINDOW:  # doubled, as in the original code
            rows = rows.repeat(1, 2)
        (entry,) = self.session.get_inputs()
        found = []
        windows = max(1, int(rows.shape[1] // SAMPLE_RATE - WINDOW / SAMPLE_RATE) + 1)  # as in the original code
        for start in range(0, windows * SAMPLE_RATE, SAMPLE_RATE):
            pieces = rows[:, start : start + WINDOW].numpy()
            found.append(np.concatenate([self.session.run(None, {entry.name: piece[None]})[0] for piece in pieces]))
        scores = np.stack([np.polyval(curve, np.stack(found)[..., i]) for i, curve in enumerate(CURVES)], axis=-1).mean(0)
        return torch.from_numpy(scores).float().to(waves.device)
