"""A student of ContentVec, called as RVC and so-vits-svc call the one that fairseq loads.

pip install sottovoce

    model = ContentVec("students/contentvec").to(device).eval()
    model.extract_features(source=wave, output_layer=12)[0]     # RVC: (1, samples) at 16 kHz -> (1, frames, 768)
    model.encoder(wave)                                         # so-vits-svc: (samples,) -> (1, 768, frames)

Older models of RVC read layer 9 through the teacher's `final_proj`: `ContentVec(folder, teacher="lengyue233/content-vec-best")` has it.
"""

import torch

import sottovoce
from sottovoce.hub.pretrained import load_checkpoint


class ContentVec(torch.nn.Module):
    """The student in its teacher's space. folder: where it is. teacher: where `final_proj` is, if it is wanted."""

    def __init__(self, folder, teacher=None):
        super().__init__()
        self.student = sottovoce.load(folder, space="teacher")
        if teacher is not None:
            heads = load_checkpoint(teacher).heads
            weight, bias = heads["final_proj.weight"].float(), heads["final_proj.bias"].float()
            self.final_proj = torch.nn.Linear(weight.shape[1], weight.shape[0])
            self.final_proj.load_state_dict({"weight": weight, "bias": bias})

    @torch.no_grad()
    def extract_features(self, source, padding_mask=None, mask=False, output_layer=12):
        """(1, samples), no padding -> ((1, frames, width) of a layer, padding_mask)."""
        return self.student(source).hidden[output_layer].to(source.dtype), padding_mask

    def encoder(self, wave):
        """(samples,), or (samples, channels) -> (1, width, frames) of layer 12."""
        wave = wave.mean(-1) if wave.dim() == 2 else wave
        return self.extract_features(wave[None])[0].transpose(1, 2)
