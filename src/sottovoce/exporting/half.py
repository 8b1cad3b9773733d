"""Half precision for ONNX graphs, as autocast would do it: products in float16; norms, softmax, sums and inputs and outputs in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sottovoce.exporting.proto import drop_unused, library, scope, weights

if TYPE_CHECKING:
    from onnx import ModelProto

PRODUCTS = ("MatMul", "Gemm", "Conv")
LARGEST = 65504  # the largest number in float16
FLOAT32_ONLY = "encoder.frontend.features"  # energies of 16-bit samples do not fit into float16


def halve(model: ModelProto) -> None:
    """Stores the weights of products as float16 and computes the products in it. Casts stand around each of them; runtimes join those
    of neighbours, and take all away where they have no float16. ValueError for a weight that float16 cannot hold."""
    import numpy as np

    helper, numpy_helper, proto = library("onnx.helper"), library("onnx.numpy_helper"), library("onnx").TensorProto
    known = weights(model)
    halves: dict[str, str] = {}  # float32 tensor -> the same in float16
    nodes = []
    for node in model.graph.node:
        if node.op_type not in PRODUCTS or scope(node).startswith(FLOAT32_ONLY):
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if not name:
                continue
            if name not in halves:
                halves[name] = f"{name}_half"
                if name in known:
                    array = numpy_helper.to_array(known[name])
                    if np.abs(array).max(initial=0) > LARGEST:
                        raise ValueError(
                            f"{scope(node) or name} has a weight of {np.abs(array).max():.3g}, and float16 ends at {LARGEST}; "
                            "export it with --precision fp32 or int8"
                        )
                    model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float16), halves[name]))
                else:
                    nodes.append(helper.make_node("Cast", [name], [halves[name]], to=proto.FLOAT16))
            node.input[i] = halves[name]
        output = node.output[0]
        node.output[0] = f"{output}_product"
        nodes += [node, helper.make_node("Cast", [node.output[0]], [output], to=proto.FLOAT)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    drop_unused(model)
