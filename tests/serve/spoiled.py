"""Versions with something wrong in them: each is refused at a gate of its own."""

import json
from hashlib import sha256
from pathlib import Path

from safetensors.torch import load_file, save_file
from stack import Stack


def spoil_golden(folder: Path) -> None:
    """Golden clips of another model, with all digests right."""
    tensors = load_file(folder / "golden.safetensors")
    tensors["logits"] += tensors["logits"].abs().max() * 0.1
    save_file(tensors, folder / "golden.safetensors")
    card = json.loads((folder / "sdavs.json").read_text())
    card["sha256"]["golden.safetensors"] = sha256((folder / "golden.safetensors").read_bytes()).hexdigest()
    (folder / "sdavs.json").write_text(json.dumps(card))


def change_file(stack: Stack, version: int, name: str, change) -> None:
    """Change a registered version's file where MLflow keeps it."""
    source = stack.client.get_model_version_download_uri("sdavs", str(version))
    path = Path(source.removeprefix("file://")) / name
    path.write_bytes(change(path.read_bytes()))


def corrupt(stack: Stack) -> int:
    """A version whose weights are not those that were registered."""
    version = stack.register(seed=2)
    change_file(stack, version, "model.safetensors", lambda content: content[:-1] + b"!")
    return version
