"""What hosts with a decoder share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from sottovoce.core.types import Batch, Features, Outputs
from sottovoce.hosts.base import Host
from sottovoce.hosts.rest import Heard, decoder

START = 4  # the most tokens that a decoder is given


class DecoderHost(Host):
    """A decoder of transformers that reads the encoder's states and writes text."""

    suffix = "ForConditionalGeneration"
    auto_class = "AutoModelForSpeechSeq2Seq"
    answers = "tokens"
    text = True

    def build_rest(self, hf: dict[str, Any]) -> nn.Module:
        return decoder(hf, self.suffix)

    def complete(self, tensors: Mapping[str, Tensor]) -> None:
        from transformers import GenerationConfig

        if (self.folder / "generation_config.json").is_file():
            self.rest.generation_config = GenerationConfig.from_pretrained(self.folder)

    def heard(self, features: Features) -> Any:
        """The output of an encoder of transformers, as the decoder reads it."""
        states = self.states(features)
        return Heard(last_hidden_state=states.last, attention_mask=states.mask())

    def outputs(self, features: Features, batch: Batch, tokens: Tensor | None = None) -> Outputs:
        """`Host.outputs`. valid: the tokens that the decoder chose, without those it was given at the start and padding after the end."""
        if tokens is None:
            raise ValueError(f"a host of kind {self.name} has outputs for given tokens only, e.g. those of its greedy transcript")
        logits = self.rest(encoder_outputs=self.heard(features), decoder_input_ids=tokens[:, :-1]).logits
        return Outputs(logits, self.chosen(tokens))

    def chosen(self, tokens: Tensor) -> Tensor:
        ends = tokens == self.end
        ends[:, 0] = False
        after = ends.cumsum(1) - ends.long() > 0  # behind the first token that ends the text
        given = torch.arange(tokens.shape[1], device=tokens.device) < self.given(tokens)
        return ~(after | given)[:, 1:]

    def parts(self) -> dict[str, set[str]]:
        every, head = super().parts()["head"], self.rest.get_output_embeddings().weight
        return {"head": {name for name, parameter in self.rest.named_parameters() if parameter is head}, "decoder": every}

    def spelled(self, text: str, **options: Any) -> list[int]:
        """`Host.spelled`, from the tokens that the decoder is given to the one that ends the text. [] if the decoder cannot say as many."""
        ids = [*self.start(**options), *self.tokenizer(text, add_special_tokens=False).input_ids, self.end]
        most = getattr(self.rest.config, "max_target_positions", len(ids))
        return [] if len(ids) > most else ids

    def start(self, **options: Any) -> list[int]:
        """The tokens that the decoder is given before a text. options: as of `greedy`."""
        return [int(self.rest.config.decoder_start_token_id)]

    @property
    def end(self) -> int:
        """The token that ends a text."""
        end = self.rest.generation_config.eos_token_id
        return int(end[0] if isinstance(end, list) else end)

    def asked(self, task: str, language: str, beams: int = 1) -> dict[str, Any]:
        return {**super().asked(task, language), **({"num_beams": beams} if beams > 1 else {})}

    @property
    def most_tokens(self) -> int | None:
        return int(self.rest.generation_config.max_length) - START

    def given(self, tokens: Tensor) -> int:
        """How many tokens at the start of a transcript the decoder did not choose."""
        return 1

    @torch.no_grad()
    def greedy(self, features: Features, batch: Batch, **options: Any) -> Tensor:
        """`Host.greedy`. options: of transformers' ``generate``, such as ``max_new_tokens``, or ``language`` and ``task`` of Whisper."""
        tokens: Tensor = self.generated(features, **options)
        return tokens

    def generated(self, features: Features, **options: Any) -> Any:
        """What transformers' ``generate`` gives."""
        before = logging.get_verbosity()
        logging.set_verbosity_error()  # it speaks of arguments that this call does not need, and of its own future
        try:
            return self.rest.generate(encoder_outputs=self.heard(features), **{"do_sample": False, "num_beams": 1, **options})
        finally:
            logging.set_verbosity(before)
