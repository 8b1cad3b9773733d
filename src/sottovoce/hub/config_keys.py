"""Keys of a config.json that nobody reads: misspelt, of another library, or of a newer version."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

# Written by transformers beside any model, now or in earlier versions.
_COMMON = frozenset(
    """
    _attn_implementation_autoset _commit_hash _name_or_path add_cross_attention architectures attn_implementation auto_map
    cross_attention_hidden_size dtype finetuning_task gradient_checkpointing is_decoder is_encoder_decoder model_type num_labels
    output_attentions output_hidden_states prefix pruned_heads return_dict sep_token_id task_specific_params tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class torch_dtype torchscript transformers_version use_bfloat16 use_cache
    """.split()  # noqa: SIM905
)


def unknown_keys(hf: Mapping[str, Any], read: Iterable[str]) -> tuple[str, ...]:
    """The keys of `hf`, a parsed config.json, that are neither in `read` nor known to the transformers class of its ``model_type``."""
    rest = set(hf) - set(read) - _COMMON
    if rest:  # only now, because importing transformers takes a second
        rest -= _keys_of_class(hf["model_type"])
    if rest:
        rest -= _keys_of_generation()
    return tuple(sorted(rest))


def _keys_of_class(kind: str) -> set[str]:
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        return set()
    cls: Any = CONFIG_MAPPING[kind]
    return {field.name for field in dataclasses.fields(cls)} | set(cls.attribute_map) | set(cls().to_dict())


def _keys_of_generation() -> set[str]:
    """Settings of `generate`, which earlier versions wrote into config.json."""
    from transformers import GenerationConfig

    return set(GenerationConfig().to_dict())
