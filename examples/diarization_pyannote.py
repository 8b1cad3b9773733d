"""A student in pyannote.audio: `SSeRiouSS`, its model of who speaks when, on an encoder that sottovoce made.

pip install pyannote.audio sottovoce

    from diarization_pyannote import SmallSSeRiouSS
    model = SmallSSeRiouSS(wav2vec="students/wavlm", task=task)      # then train it as any model of pyannote.audio
    model = Model.from_pretrained("checkpoint.ckpt")                 # from pyannote.audio, where this file can be imported

`SSeRiouSS` takes models of torchaudio, which know no pruned layers; `Wav2Vec` answers as one of them does.
"""

from types import SimpleNamespace

import torch
from pyannote.audio.models.segmentation import SSeRiouSS

import sottovoce


class Wav2Vec(torch.nn.Module):
    """A student, called as pyannote.audio calls a model of torchaudio."""

    def __init__(self, folder):
        super().__init__()
        self.student = sottovoce.load(folder)  # normalises waves itself where the teacher wants that
        convs = [
            SimpleNamespace(kernel_size=conv.kernel, stride=conv.stride, conv=SimpleNamespace(padding=(0,), dilation=(1,)))
            for conv in self.student.config.frontend.convs
        ]
        self.feature_extractor = SimpleNamespace(conv_layers=convs)  # by which frames are counted

    def extract_features(self, waveforms, lengths=None, num_layers=None):
        """(batch, samples) -> a list of (batch, frames, width), one for each layer, of the first `num_layers`."""
        return self.student(waveforms, lengths).hidden[1:][:num_layers], None


class SmallSSeRiouSS(SSeRiouSS):
    """`SSeRiouSS` on a student. wav2vec: its folder, which is needed again when a checkpoint is opened."""

    def __init__(self, wav2vec, **options):
        encoder = Wav2Vec(wav2vec)
        shape = encoder.student.config
        super().__init__(wav2vec=stand_in(shape.dim, len(shape.layers)), **options)
        trained = not options.get("wav2vec_frozen", False)
        self.wav2vec = encoder.train(trained).requires_grad_(trained)
        self.hparams.wav2vec = str(wav2vec)


def stand_in(width, layers):
    """A model of torchaudio of this width and depth, as small as can be: `SSeRiouSS` makes one, and asks it nothing else."""
    return {
        "extractor_mode": "group_norm",
        "extractor_conv_layer_config": [(1, 400, 320)],
        "extractor_conv_bias": False,
        "encoder_embed_dim": width,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": 1,
        "encoder_pos_conv_groups": width,
        "encoder_num_layers": layers,
        "encoder_num_heads": 1,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": 1,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": False,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }
