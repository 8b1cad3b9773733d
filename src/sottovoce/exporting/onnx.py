"""A `Graph` as an ONNX file: batch and length dynamic, what one must know of it in its metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.files import printable
from sottovoce.encoder import Encoder
from sottovoce.evaluation.subjects.onnx_file import open_onnx, score_output
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.exporting import half, quantize
from sottovoce.exporting.graph import LAST, Graph, longest, quiet
from sottovoce.exporting.proto import INPUTS, OUTPUTS, SCOPES, drop_unused, library, weights
from sottovoce.exporting.proto import PARTS as PARTS  # as an `ExportFormat` has them
from sottovoce.exporting.proto import save as save
from sottovoce.exporting.proto import size as size
from sottovoce.hub.pretrained import Pretrained, load_pretrained
from sottovoce.hub.student import teacher_space
from sottovoce.hub.teacher_space import check_space
from sottovoce.pruning import encoder_cost, total

if TYPE_CHECKING:
    from onnx import ModelProto

NAME, RUNTIME, FILE = "ONNX", "onnxruntime", "model.onnx"
SCORES = True
PRECISIONS: tuple[str, ...] = ("fp32", "fp16", "int8", "int8-static")
ANY_LENGTH = True
MILDER = "--precision int8 or fp16, or fewer parts"
OPSET = 18  # what torch.onnx translates to without a conversion; runtimes have read it since 2023


def require() -> None:
    """ValueError where a part of the extra ``onnx`` is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        library(name)


def export_onnx(source: str | Path, path: str | Path, *, layer: str = LAST) -> None:
    """The model at `source` as the file `path`, in float32, unchecked. `api.export` does more. ValueError as `load_pretrained` and
    `Graph` raise it."""
    loaded = load_pretrained(source)
    graph = graph_of(loaded, layer)
    model = translate(graph)
    describe(model, facts(loaded, graph, "fp32"))
    save(model, Path(path))


def graph_of(loaded: Pretrained, layer: str = LAST, space: str = "student", scores: bool = True) -> Graph:
    """What is to be exported of a model. scores: its score heads, too, if it has any. ValueError for one that runs inside transformers, a
    layer that there is not, or the space of a teacher whose projections were not saved."""
    if not isinstance(loaded.encoder, Encoder):
        raise ValueError(
            f"{loaded.source}: model_type '{loaded.hf_config.get('model_type')}' runs inside transformers and cannot be exported here; "
            "export a student of it, or use the exporter of transformers"
        )
    check_space(space)
    mapped = teacher_space(loaded) if space == "teacher" else None
    heads = loaded.scores if scores else None
    return Graph(loaded.encoder, normalize=loaded.normalize, layer=layer, space=mapped, scores=heads)


def facts(loaded: Pretrained, graph: Graph, precision: str, origin: Mapping[str, Any] | None = None) -> dict[str, str]:
    """What the file says of itself; lists and mappings as JSON."""
    from sottovoce import __version__

    shape = loaded.shape
    cost = total(encoder_cost(shape))
    return {
        "sottovoce": __version__,
        "source": source_name(loaded),
        "family": loaded.family,
        "precision": precision,
        "sampling_rate": str(SAMPLE_RATE),
        "frame_rate": str(SAMPLE_RATE / shape.frontend.stride * graph.join),
        "kernel": str(shape.frontend.kernel),
        "stride": str(shape.frontend.stride // graph.join),
        **({"longest": str(longest(shape))} if longest(shape) else {}),
        "dim": str(shape.dim if graph.space is None else loaded.hf_config["teacher_dim"]),
        **({} if graph.space is None else {"space": "teacher"}),
        "layer": graph.layer,
        "layers": json.dumps(graph.chosen),
        "normalizes": json.dumps(graph.normalize),
        **(
            {}
            if graph.scores is None
            else {"scores": json.dumps({label: asdict(each) for label, each in graph.scores.shapes.items()})}
        ),
        "params": str(int(cost.params)),
        "macs_per_s": str(float(cost.macs)),
        "origin": json.dumps(origin),
    }


def source_name(loaded: Pretrained) -> str:
    """The hub id of a model, or the name of its folder."""
    folder = Path(loaded.source).expanduser()
    return printable(folder.resolve().name if folder.exists() else loaded.source)


def settings(graph: Graph, window: float) -> dict[str, str]:
    """Facts of this format alone: none."""
    return {}


def pieces(waves: Sequence[Tensor], facts: Mapping[str, str]) -> list[Tensor]:
    """Recordings as the file takes them: any length."""
    return list(waves)


def build(
    graph: Graph,
    facts: Mapping[str, str],
    *,
    parts: Sequence[str] | None = None,
    calibration: Sequence[Tensor] = (),
    say: Callable[[str], None] = lambda text: None,
) -> ModelProto:
    """The graph in the precision that `facts` name, with the facts in its metadata. ValueError for parts that cannot be quantised."""
    model, precision = translate(graph), facts["precision"]
    if precision == "fp16":
        half.halve(model)
    elif precision == "int8":
        model = quantize.quantize_dynamic(model, parts or quantize.DYNAMIC)
    elif precision == "int8-static":
        say(f"measuring ranges on {len(calibration)} recordings")
        model = quantize.quantize_static(model, calibration, parts or quantize.STATIC)
    describe(model, facts)
    return model


def about(facts: Mapping[str, str]) -> dict[str, Any]:
    """What the file takes and gives, for people."""
    shape = "(batch, layers, frames, dim)" if facts["layer"] == "all" else "(batch, frames, dim)"
    return {
        "inputs": {
            "wave": "float32 (batch, samples), 16 kHz, as recorded",
            "lengths": "int64 (batch,), valid samples of each row",
        },
        "outputs": {
            "hidden_states": f"float32 {shape}",
            "frames": "int64 (batch,), valid frames of each row",
            **{score_output(label): _about_scores(each) for label, each in json.loads(facts.get("scores", "{}")).items()},
        },
        "opset": OPSET,
    }


def _about_scores(shape: Mapping[str, Any]) -> str:
    limit = f"; of recordings above {shape['window']:g} s, the mean over windows of that length" if shape["window"] else ""
    return f"float32 (batch, {len(shape['names'])}), {', '.join(shape['names'])}{limit}"


def opened(path: Path) -> Subject:
    """The file, run by onnxruntime."""
    return open_onnx(path)


def translate(graph: Graph) -> ModelProto:
    """The graph in float32. Valid frames are the module's, whatever batch and length (of at least two frames)."""
    front = graph.encoder.config.frontend
    least = front.kernel + front.stride  # two frames: torch.export takes an axis of length 1 for something special
    samples = max(16_000, 4 * least)
    example = torch.randn(2, samples), torch.tensor([samples, samples - front.stride])
    batch = torch.export.Dim("batch")
    axes = {
        "wave": {0: batch, 1: torch.export.Dim("samples", min=least, max=longest(graph.encoder.config) or None)},
        "lengths": {0: batch},
    }
    scores = [] if graph.scores is None else [score_output(label) for label in graph.scores]
    return program(graph, example, axes, INPUTS, [*OUTPUTS, *scores])


def program(
    module: nn.Module, example: tuple[Tensor, ...], axes: dict[str, Any], inputs: Sequence[str], outputs: Sequence[str]
) -> ModelProto:
    """A module as an ONNX graph. example: its inputs, which are called `inputs` in the graph; axes: of each, those of any size."""
    library("onnxscript")
    with torch.no_grad(), quiet():
        translated = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            dynamic_shapes=axes,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert translated is not None
    model: ModelProto = translated.model_proto
    _fold_transposes(model)
    del model.graph.value_info[:]  # shapes as they were before the exporter's optimiser; of some weights they are no longer true
    for node in model.graph.node:  # where it stood in somebody's Python files is nobody's business
        kept = [item for item in node.metadata_props if item.key == SCOPES]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    return model


def describe(model: ModelProto, facts: Mapping[str, str]) -> None:
    """Puts `facts` into the file's metadata, in place of what was there."""
    del model.metadata_props[:]
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name = "sottovoce"
    model.producer_version = facts.get("sottovoce", "")


def _fold_transposes(model: ModelProto) -> None:
    """Weights that are turned around in every pass, turned around for good. The exporter leaves large ones as they are."""
    numpy_helper = library("onnx.numpy_helper")
    known = weights(model)
    folded = []
    for node in model.graph.node:
        if node.op_type != "Transpose" or node.input[0] not in known:
            continue
        order = next((list(item.ints) for item in node.attribute if item.name == "perm"), None)
        turned = numpy_helper.to_array(known[node.input[0]]).transpose(order)
        model.graph.initializer.append(numpy_helper.from_array(turned.copy(), node.output[0]))
        folded.append(node)
    for node in folded:
        model.graph.node.remove(node)
    drop_unused(model)
