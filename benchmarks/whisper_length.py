"""What any length and half the compute save of a whole Whisper: time and memory of a process that transcribes 60 s in clips of 5 s.

    python benchmarks/whisper_length.py openai/whisper-tiny.en --speech FOLDER --work DIR

One clip at a time, greedily, one process for each way and round, in turns; the time is that of the whole process, from start to end.

- untouched: the model as it is, padding every clip to 30 s, on stock transformers.
- any-length: the same weights on clips as long as they are, the frames behind filled with the encoder's answer to silence.
- any-length-50: the same with half of the encoder's MACs. `--half` names a trained one (a folder that `compress` wrote); without, all kinds
  of units are cut alike and not trained, so that its texts, and with them the time of its decoder, say nothing.
- each also in ONNX Runtime, encoder and decoder with 8-bit products.
- faster-whisper: the model as it is in CTranslate2, int8 (pip install faster-whisper).

FOLDER holds recordings of 5 s or more (any audio file; the first 5 s of the first twelve by name). DIR keeps the models that are made; a
second run takes them from there. The record says how many words each way writes, and how many are not those of the untouched model (with
Whisper's normaliser).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import stock

SECONDS, CLIPS, RATE = 5, 12, 16_000
SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".mp3")
TORCH, ONNX = ("untouched", "any-length", "any-length-50"), ("untouched-onnx", "any-length-onnx", "any-length-50-onnx")
WAYS = (*TORCH, *ONNX, "faster-whisper")


def clips(folder: Path) -> list[Any]:
    """The first 5 s of the first recordings that are as long, (80,000,) float32. ValueError for too few of them."""
    import soundfile

    found = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES):
        if len(found) < CLIPS and soundfile.info(path).duration >= SECONDS and soundfile.info(path).samplerate == RATE:
            found.append(soundfile.read(path, SECONDS * RATE, dtype="float32", always_2d=True)[0].mean(1))
    if len(found) < CLIPS:
        raise ValueError(f"{folder} has {len(found)} recordings of {SECONDS} s at 16 kHz; {CLIPS} are needed")
    return found


# the models


def prepare(model: str, work: Path, half: Path | None) -> None:
    """Makes what is not in `work` yet: students in their host, files for ONNX Runtime, and the model for CTranslate2."""
    import torch

    from sottovoce.hosts.load import load_host
    from sottovoce.hosts.save import save_host

    for way in TORCH:
        folder = work / way
        host = load_host(model)
        if host is None:
            raise ValueError(f"{model} is no whole Whisper: it has no decoder")
        if way == "any-length-50" and half is not None:
            if not folder.exists():
                shutil.copytree(half, folder)
            host = load_host(folder)
        elif way != "untouched":
            if not (folder / "config.json").exists():
                host.put(student(host.pretrained, 0.5 if way.endswith("50") else 1.0), torch.nn.Identity())
                save_host(folder, host, teacher=model)
            host = load_host(folder)
        if not (work / f"{way}-onnx" / "encoder.onnx").exists():
            to_onnx(host.eval(), work / f"{way}-onnx")
    if not (work / "faster-whisper").exists():
        from ctranslate2.converters import TransformersConverter

        files = [name for name in ("tokenizer.json", "preprocessor_config.json") if (Path(model) / name).exists()]
        TransformersConverter(model, copy_files=files).convert(str(work / "faster-whisper"), quantization="int8")


def to_onnx(host: Any, folder: Path) -> None:
    """Encoder and decoder as files with 8-bit products."""
    from sottovoce.exporting.whole_files import export_whole

    export_whole(host, folder, "int8", None, float(SECONDS), print)


def student(teacher: Any, keep: float) -> Any:
    """The teacher's encoder on recordings as long as they are, with a share of its MACs."""
    import torch

    from sottovoce.core.registry import STUDENTS
    from sottovoce.pruning import Budget, BudgetConfig, Gates, cut, make_plan, meet_budget

    copy = STUDENTS.get("copy")
    encoder = copy(copy.Config(length="any")).build(teacher).eval()
    if keep == 1.0:
        return encoder
    plan = make_plan(encoder.config, ("conv", "head", "ffn"))
    gates = Gates(plan)
    with torch.no_grad():
        for values in gates.log_alpha.values():
            values.copy_(torch.linspace(-2, 2, values.numel()).view_as(values))
        report = meet_budget(gates, Budget(BudgetConfig("macs", keep, seconds=float(SECONDS)), encoder.config, plan))
        values = {group.name: (torch.arange(group.size) < report.counts[group.name]).float() for group in plan}
        return cut(encoder, plan, values).eval()


# one process


def transcriber(way: str, model: str, work: Path, threads: int) -> Callable[[Any], str]:
    """What writes the text of a clip."""
    if way == "faster-whisper":
        from faster_whisper import WhisperModel

        whisper = WhisperModel(str(work / way), device="cpu", compute_type="int8", cpu_threads=threads)

        def by_ctranslate(wave: Any) -> str:
            pieces, _ = whisper.transcribe(wave, language="en", beam_size=1, temperature=0.0, without_timestamps=True)
            return "".join(piece.text for piece in pieces)

        return by_ctranslate
    if way in ONNX:
        from sottovoce.exporting.runtime_host import RuntimeHost

        files = RuntimeHost(work / way, threads)
        return lambda wave: files.transcribe(wave, "en")

    import torch

    torch.set_num_threads(threads)
    if way == "untouched":
        return stock.transcriber(model)
    from sottovoce.hosts.load import load_host
    from sottovoce.inference.packed import fastest

    host = load_host(work / way)
    assert host is not None
    host.eval().encoder = fastest(host.encoder)
    return lambda wave: host.transcribe(torch.from_numpy(wave)[None])[0]


def worker(options: argparse.Namespace) -> None:
    """Transcribes all clips and prints what the parent reads."""
    began = time.perf_counter()
    write = transcriber(options.worker, options.model, options.work, options.threads)
    loaded = time.perf_counter()
    texts = [write(wave).strip() for wave in clips(options.speech)]
    ended = time.perf_counter()
    # not `ru_maxrss`, which a process inherits from the one that started it
    peak = (
        next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        / 2**10
    )
    print(json.dumps({"load": loaded - began, "transcribe": ended - loaded, "peak_mib": peak, "texts": texts}))


def against(untouched: Sequence[str], texts: Sequence[str]) -> dict[str, int]:
    """How many words the texts have, and the word errors in them if what the untouched model writes is right."""
    from sottovoce.evaluation.statistics.metrics import word_errors
    from sottovoce.evaluation.statistics.texts import normalizer

    form = normalizer("whisper", "en")
    pairs = [(form(true), form(text)) for true, text in zip(untouched, texts, strict=True)]
    return {"words": sum(len(text.split()) for _, text in pairs), "other_words": sum(word_errors(*pair)[0] for pair in pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--speech", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--half", type=Path, help="a trained student with half of the MACs, in its host")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", choices=WAYS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records.jsonl")
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return

    from sottovoce.core import ledger
    from sottovoce.timing.machine import header

    clips(options.speech)
    prepare(options.model, options.work, options.half)
    rows: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
    for _ in range(options.rounds):
        for way in options.ways:
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", way]
            began = time.perf_counter()
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            rows[way].append({"seconds": time.perf_counter() - began, **json.loads(said)})
    found = {
        way: {
            **{key: round(statistics.median(row[key] for row in each), 3) for key in ("seconds", "load", "transcribe")},
            "peak_mib": round(max(row["peak_mib"] for row in each)),
            **({} if "untouched" not in rows else against(rows["untouched"][-1]["texts"], each[-1]["texts"])),
        }
        for way, each in rows.items()
    }
    record = {
        "name": "whisper-length",
        **header("whisper-length", options.threads),
        "model": Path(options.model).name,
        "audio_seconds": SECONDS * CLIPS,
        "rounds": options.rounds,
        "trained": options.half is not None,
        "ways": found,
    }
    ledger.write(options.out, record)
    for way, row in found.items():
        print(f"{way:20} {row['seconds']:7.2f} s, of which {row['transcribe']:.2f} s transcribing, {row['peak_mib']:5} MiB")


if __name__ == "__main__":
    main()
