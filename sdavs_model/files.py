"""Files on disk: atomic writes, digests, text in any common encoding, and names with composed or decomposed accents."""

import codecs
import contextlib
import csv
import hashlib
import os
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LITTER = {".ds_store", "thumbs.db", "desktop.ini"}


def write_atomically(path: Path, content: str | bytes, *, private: bool = False) -> None:
    """Write a file of text (UTF-8) or bytes; readers see the old content or the new one, never a part.

    Args:
        path: in a folder that exists.
        content: all of it.
        private: only the file's owner may read it.
    """
    with replacing(path) as part:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write a csv in the same way."""
    with replacing(path) as part, part.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to in place of `path`, which it replaces when the block ends.

    If the block raises, `path` is left as it was. Several processes and threads may write the same `path` at once:
    the last one wins.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_native_id()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_text(path: Path, what: str = "text") -> str:
    """The text of a file in UTF-8, UTF-16 or Windows's cp1252, with or without a byte order mark.

    Raises:
        ValueError: an empty file, or no text; names it.
    """
    content = path.read_bytes()
    if not content.strip():
        raise ValueError(f"{path}: is empty")
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        encodings = ["utf-16"]
    elif 0 in content[:2]:
        encodings = ["utf-16-be" if content[0] == 0 else "utf-16-le"]
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if "\0" not in text:
                return text
    raise ValueError(f"{path}: is not {what}, or not encoded in UTF-8, UTF-16 or cp1252")


def composed(text: str) -> str:
    """Text with accented letters as one character each (Unicode's NFC), as tables and keyboards mostly have it."""
    return unicodedata.normalize("NFC", text)


def as_on_disk(path: Path) -> Path:
    """The path as the disk spells it; unchanged as far as there is no such file.

    macOS may store an accented letter as two characters (NFD). On Linux that is another name than the composed one
    in a table or on a command line.
    """
    if str(path).isascii() or path.exists():
        return path
    folder = as_on_disk(path.parent)
    for form in ("NFC", "NFD"):
        if (candidate := folder / unicodedata.normalize(form, path.name)).exists():
            return candidate
    return folder / path.name


def is_litter(path: Path) -> bool:
    """Whether a file is one that macOS or Windows leaves in folders, to remember how it shows them."""
    return path.name.startswith("._") or path.name.lower() in LITTER


def remove_parts(folder: Path) -> None:
    """Remove incomplete files of killed processes anywhere below `folder`, to which no other process may be
    writing."""
    for part in folder.rglob("*.part"):
        part.unlink(missing_ok=True)


def sha256_of(path: str | Path) -> str:
    """The sha256 (hex) of a file's content, read in pieces. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
