"""Exports DPHuBERT's students at a quarter of the MACs to ONNX in 8 bits and measures the files.

    python -m experiments.int8.run --train train.tsv --speech FOLDER --work DIR --tasks ks-arabic sid

The students are those of the testbed's table; in the same --work they are taken as they are. In float32 they are in `equal_latency`.
"""

from __future__ import annotations

import sottovoce
from experiments.students import Setting, arguments, dphubert, measure


def main() -> None:
    options = arguments(__doc__, __file__).parse_args()
    for seed in options.seeds:
        student = dphubert(Setting.of(options), "macs", 0.25, seed).out
        file = sottovoce.export(student, precision="int8", layer="all", say=print)
        if options.speech:
            measure(options, str(file), seed)


if __name__ == "__main__":
    main()
