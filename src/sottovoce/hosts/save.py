"""Writes a host with a student in it, as a folder that transformers opens with and without sottovoce."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sottovoce.families.student_config import DECODER_TYPES, HEAD_KEYS
from sottovoce.hosts.base import BRIDGE, REST, SILENCE, Host
from sottovoce.hosts.bridge import Bridge, Bridges
from sottovoce.hosts.heads import HeadHost
from sottovoce.hosts.whisper import WhisperHost
from sottovoce.hub.card import Card
from sottovoce.hub.pretrained import COMPANIONS
from sottovoce.hub.student import HostFiles, bare_preprocessor, save_student

CODE = {"hosts.bridge": "sottovoce_bridge", "hosts.rest": "sottovoce_rest"}  # modules that travel with every student in a host
PROCESSOR = "Wav2Vec2Processor"  # of waveforms and text
HEADS = {  # classes of `remote.heads`; the classifier's name is one by which pipelines know what they can use
    "ForCTC": "SottovoceForCTC",
    "ForSequenceClassification": "Wav2Vec2ForSequenceClassification",
    "ForAudioFrameClassification": "SottovoceForAudioFrameClassification",
    "ForXVector": "SottovoceForXVector",
}
USAGES = {
    "text": """\
## Use

It recognises speech, {whence}:

```python
from transformers import pipeline

recognise = pipeline("automatic-speech-recognition", model="PATH", trust_remote_code=True)
recognise("speech.wav")["text"]  # 16 kHz mono
```

`{auto}.from_pretrained("PATH", trust_remote_code=True)` opens the model alone. With `import sottovoce` before it, `trust_remote_code` is
not needed.

""",
    "labels": """\
## Use

It stands in for the {kind} that it comes from:

```python
from transformers import AutoFeatureExtractor, {auto}

extractor = AutoFeatureExtractor.from_pretrained("PATH")
model = {auto}.from_pretrained("PATH", trust_remote_code=True)  # not needed after `import sottovoce`
logits = model(**extractor(waves, sampling_rate=16000, padding=True, return_tensors="pt")).logits
```

""",
}


def save_host(
    folder: str | Path,
    host: Host,
    *,
    projections: Mapping[str, nn.Linear] | None = None,
    layers: Mapping[str, Sequence[int]] | None = None,
    join: int = 1,
    teacher: str,
    card: Card | None = None,
) -> None:
    """Writes `folder`, so that the auto class of the host's kind opens it, with sottovoce and, by the code in it, without.

    host: with the student put in. The rest as in `hub.student.save_student`, which writes it in one step. A bridge without a norm is folded
    into the head's first layer. Tokenizer and generation files come along. ValueError and OSError as there.
    """
    save_student(
        folder,
        host.encoder,
        normalize=host.pretrained.normalize,
        projections=projections,
        layers=layers,
        join=join,
        teacher=teacher,
        card=card,
        host=files_of(host),
    )


def files_of(host: Host) -> HostFiles:
    """What the folder of a student in this host holds beside the student."""
    bridges, rest, width = folded(host)
    shape: dict[str, Any] = {"kind": host.name, "bridges": bridges.to_json(), "config": host.hf}
    shape |= {"width": width} if width else {}
    if isinstance(host, HeadHost) and host.rest.base_model.stride > 1:
        shape["stride"] = host.rest.base_model.stride
    tensors = {f"{BRIDGE}{name}": tensor for name, tensor in bridges.state_dict().items()}
    kind = str(host.hf["model_type"])
    copied = companions(host)
    if kind in DECODER_TYPES:
        tensors |= rest
        stem = "Whisper" if kind == "whisper" else "Moonshine"
        name, module = f"{stem}ForConditionalGeneration", "modeling_sottovoce_decoders"
        config: dict[str, Any] = {"model_type": DECODER_TYPES[kind]}
        auto = {"AutoConfig": f"Sottovoce{stem}Config", "AutoModel": f"{stem}Student", host.auto_class: name}
        code, top = {"hosts.remote.decoders": module, "hosts.remote.configuration": "configuration_sottovoce_decoders"}, host.hf
        auto = {key: f"{module}.{value}" for key, value in auto.items()}
    else:
        tensors |= {f"{REST}{name}": tensor for name, tensor in rest.items()}
        name, module = HEADS[host.suffix], "modeling_sottovoce_heads"
        config = {key: host.hf[key] for key in HEAD_KEYS if key in host.hf}
        base = "modeling_sottovoce"
        auto = {
            "AutoConfig": f"{base}.SottovoceConfig",
            "AutoModel": f"{base}.SottovoceModel",
            host.auto_class: f"{module}.{name}",
        }
        code, top = {"hosts.remote.heads": module}, {}
    if isinstance(host, WhisperHost) and not host.encoder.config.window:
        tensors[SILENCE], shape["tail"] = host.answer(), host.tail
    settings = dict(host.pretrained.preprocessor)
    if kind == "whisper":
        settings |= {"return_attention_mask": True}  # the student hears a recording as long as it is
    else:
        settings = bare_preprocessor(settings, host.pretrained.normalize)
        settings |= {"processor_class": PROCESSOR} if "tokenizer_config.json" in copied else {}
    config |= {"architectures": [name], "auto_map": auto}
    usage, task = (
        USAGES["text" if host.text else "labels"],
        "automatic-speech-recognition" if host.text else "audio-classification",
    )
    usage = usage.format(auto=host.auto_class, kind=host.hf["architectures"][0], whence=host.whence)
    return HostFiles(shape, config, top, tensors, copied, settings, {**CODE, **code}, usage, task)


def folded(host: Host) -> tuple[Bridges, dict[str, Tensor], int]:
    """Bridges, tensors of the rest, and the width that it reads (0: as its config says), with every bridge folded that can be exactly: one
    linear map into the linear layer behind it."""
    tensors = dict(host.rest.state_dict())
    for name in getattr(host.rest, "all_tied_weights_keys", None) or {}:
        tensors.pop(name, None)
    left, width = [bridge for bridge in host.bridge if isinstance(bridge, Bridge)], host.width
    while isinstance(host, HeadHost) and host.folds and left and plain(left[-1]):
        linear = left.pop().maps[0]
        assert isinstance(linear, nn.Linear)
        weight, bias = tensors[f"{host.first}.weight"], tensors[f"{host.first}.bias"]
        tensors[f"{host.first}.weight"] = (weight.double() @ linear.weight.double()).to(weight.dtype)
        if linear.bias is not None:
            tensors[f"{host.first}.bias"] = (weight.double() @ linear.bias.double() + bias.double()).to(bias.dtype)
        width = linear.in_features
    return Bridges(*left), tensors, width


def plain(bridge: Bridge) -> bool:
    """Whether a bridge is one linear map and nothing else."""
    return len(bridge.maps) == 1 and bridge.config.join == 1 and not bridge.config.norm


def companions(host: Host) -> dict[str, bytes]:
    """Files of the host's folder that its student needs, too, by name."""
    copied = {name: (host.folder / name).read_bytes() for name in COMPANIONS if (host.folder / name).is_file()}
    if "tokenizer_config.json" in copied and not isinstance(host, WhisperHost):
        settings = json.loads(copied["tokenizer_config.json"])
        if not settings.get("tokenizer_class"):  # which older files leave to the kind of model
            settings["tokenizer_class"] = type(host.tokenizer).__name__
        settings["processor_class"] = PROCESSOR  # for waveforms
        copied["tokenizer_config.json"] = json.dumps(settings, indent=2, ensure_ascii=False).encode()
    return copied
