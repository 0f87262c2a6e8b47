"""Split the image's lock file by device: what is installed as locked, and the torch packages that CPU images replace.

    python choose.py cpu|cuda requirements.lock FOLDER

Writes FOLDER/pinned.txt (with digests) and FOLDER/torch.txt. For cuda the latter is empty. For cpu it names torch's
packages at their locked versions, to be taken from PyTorch's CPU builds, which have digests of their own; the CUDA
libraries are left out, some 4 GB. Standard library only: it runs before anything is installed.
"""

import re
import sys
from pathlib import Path

TORCH = {"torch", "torchvision", "torchaudio"}
CUDA = re.compile(r"^(nvidia-|cuda-|triton$)")


def split(lock: str, device: str) -> tuple[str, str]:
    """Text of pinned.txt and torch.txt.

    Raises:
        ValueError: an unknown device.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"DEVICE: {device!r} is not allowed; allowed: cpu, cuda")
    if device == "cuda":
        return lock, ""
    pinned, torch = [], []
    # A requirement is one line and its digests on continuation lines.
    for requirement in re.findall(r"(?:.*\\\n)*.*\n", lock):
        name = requirement.split("==")[0].strip()
        if name in TORCH:
            torch.append(requirement.split()[0] + "\n")
        elif not CUDA.match(name):
            pinned.append(requirement)
    return "".join(pinned), "".join(torch)


def main() -> None:
    device, lock, folder = sys.argv[1:]
    try:
        pinned, torch = split(Path(lock).read_text(), device)
    except ValueError as error:
        sys.exit(f"choose.py: {error}")
    Path(folder, "pinned.txt").write_text(pinned)
    Path(folder, "torch.txt").write_text(torch)


if __name__ == "__main__":
    main()
