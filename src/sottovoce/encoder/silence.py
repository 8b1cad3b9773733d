"""What an encoder says of silence, for decoders that expect as many frames as a window has (Whisper: 1,500, 30 s).

A student of Whisper runs on a recording as long as it is. The decoder learned on windows that are padded with zeros, and reads nonsense
when the frames after the end are missing. What the encoder says of silence takes their place: it is computed once, and each recording
gets the part of it that lies after its own end. Where a recording ends within a word, that answer would follow speech at once, and the
decoder repeats itself: so the encoder hears a short silence behind the recording first.

B batch, S samples, T frames, W frames of the window, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.encoder.encoder import Encoder

WINDOW = 480_000  # samples of Whisper's window
TAIL = 0.1  # seconds of silence that an encoder hears behind a recording, before its answer to silence follows


@torch.no_grad()
def silence_answer(encoder: Encoder, samples: int = WINDOW, *, bare: bool = False) -> Tensor:
    """(W, D): the encoder's last states of so many samples of silence, after the final norm, or before it if `bare`.

    >>> answer = silence_answer(student)                              # once; it is kept with the student
    >>> features = student(wave, lengths)
    >>> states = fill(features.last, features.lengths, answer)        # (B, W, D), what the decoder reads

    samples: of a window that the decoder knows. ValueError when the encoder's table of positions is shorter.
    """
    parameter = next(encoder.parameters())
    training = encoder.training
    features = encoder.eval()(torch.zeros(1, samples, device=parameter.device))
    encoder.train(training)
    return features.hidden[-1][0] if bare else features.last[0]


def fill(states: Tensor, lengths: Tensor | None, answer: Tensor) -> Tensor:
    """(B, W, D): each row of `states` (B, T, D) up to its end, then `answer` (W, D) from there on.

    lengths: (B,) valid frames, or ``None`` if all T are valid. Gradients reach valid frames only. ValueError when a recording is longer
    than the window, and when the widths differ.
    """
    frames, window = states.shape[1], len(answer)
    if states.shape[2] != answer.shape[1]:
        raise ValueError(f"the states have {states.shape[2]} channels, and the answer to silence has {answer.shape[1]}")
    longest = frames if lengths is None or frames <= window else int(lengths.max())
    if longest > window:
        raise ValueError(f"the recording has {longest} frames, and the decoder reads {window}; cut it into pieces")
    states = F.pad(states[:, :window], (0, 0, 0, max(0, window - frames)))
    ends = torch.full((len(states),), frames, device=states.device) if lengths is None else lengths
    spoken = torch.arange(window, device=states.device) < ends[:, None]
    return torch.where(spoken[..., None], states, answer.to(states))


def followed(
    wave: Tensor, lengths: Tensor | None, tail: int, *, hop: int = 1, most: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """(B, S) samples and (B,) valid ones, or ``None`` if all are, with `tail` samples of silence behind each row, and their new lengths.

    hop: lengths become whole multiples of it. most: samples that no row passes with its silence; a row that is longer stays as it is.
    """
    samples = wave.shape[1]
    if lengths is not None:  # what lies behind the end of a row is not silence yet
        wave = wave * (torch.arange(samples, device=wave.device) < lengths[:, None]).to(wave.dtype)
        longer = (lengths + hop - 1) // hop * hop + tail
        lengths = longer if most is None else torch.maximum(longer.clamp(max=most), lengths)
    more = -samples % hop + tail
    return F.pad(wave, (0, more if most is None else min(more, max(0, most - samples)))), lengths
