"""A student as a transformers model. A flat copy of this file and of the encoder travels with every student (see source_code.py).

B batch, S samples, T frames, D width of the student, or of the teacher in its space.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel

from sottovoce.encoder.attention import RelativeGate
from sottovoce.encoder.config import EncoderConfig
from sottovoce.encoder.distance import KeyDistance, SinusoidDistance
from sottovoce.encoder.encoder import Encoder
from sottovoce.encoder.modules import ChannelNorm, FixedNorm, Offset, WholeNorm
from sottovoce.encoder.position import ConvPosition, RelativeTable
from sottovoce.encoder.score_head import ScoreHeads
from sottovoce.families.student_config import HOST, StudentConfig
from sottovoce.hub.configuration import SottovoceConfig
from sottovoce.hub.teacher_space import TeacherSpace, check_space, no_projections


class EncoderInside:
    """Mixed into a model of transformers that holds a student: its encoder, its projections, its score heads, and starts for what a
    checkpoint lacks."""

    shape: EncoderConfig
    encoder: Encoder
    projections: TeacherSpace
    scores: ScoreHeads

    def put_encoder(self, student: StudentConfig) -> None:
        self.shape = student.encoder
        self.encoder = Encoder(self.shape)
        dims = self.shape.dim, student.teacher_dim or 0, student.teacher_frames
        self.projections = TeacherSpace(student.projections, *dims)
        self.scores = ScoreHeads(self.shape.dim, student.scores)

    def rate(self, input_values: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """The scores of recordings, (B, N), by the label of their head. Input as of a call. ValueError if the student has no such head."""
        if not len(self.scores):
            raise ValueError("this student was saved without a head that scores recordings")
        return self.scores.rate(self.encoder, input_values, None if attention_mask is None else attention_mask.sum(-1))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Values for what a checkpoint lacks; transformers' `init` leaves loaded tensors alone."""
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, (ChannelNorm, WholeNorm, FixedNorm, RelativeGate, Offset)):
            if not isinstance(module, Offset):
                (init.zeros_ if isinstance(module, RelativeGate) else init.ones_)(module.weight)
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                init.zeros_(bias)
        elif isinstance(module, (RelativeTable, KeyDistance)):
            init.normal_(module.weight, std=0.02)
        elif isinstance(module, SinusoidDistance):
            init.zeros_(module.u)
            init.zeros_(module.v)
        if isinstance(module, FixedNorm):
            init.zeros_(module.mean)
            init.ones_(module.variance)
        if isinstance(module, RelativeGate):
            init.ones_(module.const)
        elif isinstance(module, ConvPosition) and module.scale is not None:
            init.ones_(module.scale)
        self._restore_buffers(module)

    def _restore_buffers(self, module: nn.Module) -> None:
        """Which heads and channels are left: from the config, as no checkpoint holds it and from_pretrained starts without it.

        Taken from a fresh module, so that only the module itself knows how they follow from the config.
        """
        fresh: nn.Module | None = None
        with torch.device("cpu"):
            if isinstance(module, ConvPosition) and module.scale is not None and self.shape.position is not None:
                fresh = ConvPosition(self.shape.position, self.shape.dim, self.shape.frontend.activation)
            elif isinstance(module, RelativeGate):
                for layer, shape in zip(self.encoder.layers, self.shape.layers, strict=True):
                    if getattr(layer.attention, "gate", None) is module:
                        fresh = RelativeGate(shape)
        if fresh is not None:
            for name, buffer in fresh.named_buffers():
                module.get_buffer(name).copy_(buffer)


class SottovoceModel(EncoderInside, PreTrainedModel):
    """Stands in for HubertModel, WavLMModel, Wav2Vec2Model and the like.

    >>> inputs = feature_extractor(waves, sampling_rate=16000, padding=True, return_tensors="pt")
    >>> model(**inputs, output_hidden_states=True).hidden_states[i]     # (B, T, D)
    """

    config_class = SottovoceConfig
    base_model_prefix = "sottovoce"  # no attribute has this name: nothing is to be stripped from the tensors' names
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _keys_to_ignore_on_load_unexpected = [f"^{name}" for name in HOST]  # noqa: RUF012
    _no_split_modules = ["TransformerLayer", "ConformerLayer"]  # noqa: RUF012  # as transformers declares it

    def __init__(self, config: SottovoceConfig) -> None:
        super().__init__(config)
        self.put_encoder(StudentConfig.from_json(config.to_dict()))
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        space: str = "student",
    ) -> BaseModelOutput | tuple[Any, ...]:
        """input_values: (B, S) 16 kHz, normalised as preprocessor_config.json says. attention_mask: (B, S), padding on the right.

        space="student": ``hidden_states[0]`` is what the first layer reads (after positions), ``hidden_states[i]`` the output of
        layer i, and `last_hidden_state` the last layer's, after the final norm where there is one: as the classes of
        transformers 5 give them.

        space="teacher": what the student says of the teacher's hidden states, (B, T, teacher_dim). Projections were trained on a
        layer's bare output, so here ``hidden_states[0]`` is the front end's before positions and the last one comes before any
        final norm. Layers between the distilled ones: see `TeacherSpace`. ValueError when the student was saved without
        projections. A student of fewer frames than its teacher gives as many as the teacher there: T is larger.
        """
        check_space(space)
        if output_attentions:
            raise ValueError("attention maps are never made in this model, so output_attentions=True cannot be served")
        if space == "teacher" and not len(self.projections):
            raise no_projections("this student")
        features = self.encoder(input_values, None if attention_mask is None else attention_mask.sum(-1))
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if space == "teacher":
            states = tuple(self.projections(features.hidden))
            last = states[-1]
        else:
            states, last = (features.embedded, *features.hidden[1:]), features.last
        hidden_states = states if output_hidden_states else None
        if return_dict if return_dict is not None else getattr(self.config, "return_dict", True):
            return BaseModelOutput(last_hidden_state=last, hidden_states=hidden_states)
        return (last,) if hidden_states is None else (last, hidden_states)

    def _get_feat_extract_output_lengths(self, input_lengths: Any) -> Any:
        """Frames that come out of so many samples; transformers' CTC code and pipelines call it by this name."""
        return self.shape.frontend.frames(input_lengths)

    def _get_feature_vector_attention_mask(self, feature_vector_length: int, attention_mask: Tensor) -> Tensor:
        """(B, S) mask of samples -> (B, T) bool mask of frames."""
        frames = self._get_feat_extract_output_lengths(attention_mask.sum(-1))
        return torch.arange(feature_vector_length, device=attention_mask.device) < frames[:, None]
