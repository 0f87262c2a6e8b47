"""Debian packages as sources of photographs and recordings: found, downloaded, and read without installing them."""

import shutil
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

# Flags of a file in a Qt resource file (qtbase, src/corelib/io/qresource_p.h): compressed with zlib, with zstd.
QT_COMPRESSED = 1 | 4


def find_package(folder: Path, name: str) -> Path:
    """The newest `.deb` of a package in a folder. Raises ValueError naming what is missing."""
    found = sorted(folder.glob(f"{name}_*.deb"))
    if not found:
        raise ValueError(f"{folder / name}_*.deb: missing")
    return found[-1]


def download_package(folder: Path, name: str, version: str) -> None:
    """Put a `.deb` into the folder with `apt-get download`, from the sources that this machine is set up with.

    The file appears under its name only when it is whole.

    Raises:
        ValueError: no apt-get here, or its sources do not offer this version; says what to do instead.
    """
    if any(folder.glob(f"{name}_*.deb")):
        return
    instead = "get the .deb files of Debian 12 on another machine and name their folder with --debs"
    if shutil.which("apt-get") is None:
        raise ValueError(f"{name}: this machine has no apt-get; {instead}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as unfinished:
        ran = subprocess.run(
            ["apt-get", "download", f"{name}={version}"], cwd=unfinished, capture_output=True, text=True
        )
        if ran.returncode:
            reason = ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else "no reason given"
            raise ValueError(f"{name} {version}: apt-get download failed ({reason}); {instead}")
        for file in Path(unfinished).glob("*.deb"):
            file.replace(folder / file.name)


def read_package(path: Path, members: Iterable[str]) -> dict[str, bytes]:
    """The content of some files of a package, which is read once from front to back and written nowhere.

    Args:
        path: a `.deb` file.
        members: paths in the package; `archive.rcc!path` is inside a Qt resource file, `archive.cat!7` inside
            OpenTTD's sample catalogue.

    Returns:
        {member: content}.

    Raises:
        ValueError: not a Debian package, damaged, or without one of the members; names the file.
    """
    wanted = list(members)
    archives = {member.partition("!")[0] for member in wanted}
    contents: dict[str, bytes] = {}
    try:
        with path.open("rb") as file:
            _seek_data(file, path)
            with tarfile.open(fileobj=file, mode="r|*") as data:
                for entry in data:
                    name = entry.name.removeprefix("./")
                    if name in archives and entry.isfile():
                        content = data.extractfile(entry)
                        assert content is not None
                        contents[name] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path}: a damaged Debian package ({error})") from error
    missing = sorted(archives - set(contents))
    if missing:
        raise ValueError(f"{path}: does not hold {missing[0]}; another version of the package is needed")
    return {member: _inner(contents, member, path) for member in wanted}


def _seek_data(file: BinaryIO, path: Path) -> None:
    """Move to the start of data.tar in the `ar` archive that a `.deb` is (deb(5))."""
    if file.read(8) != b"!<arch>\n":
        raise ValueError(f"{path}: not a Debian package")
    while header := file.read(60):
        if len(header) < 60 or header[58:60] != b"`\n":
            break
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            if file.tell() + size > path.stat().st_size:
                break
            return
        file.seek(size + size % 2, 1)
    raise ValueError(f"{path}: a damaged Debian package (cut short)")


def _inner(contents: dict[str, bytes], member: str, path: Path) -> bytes:
    archive, _, inner = member.partition("!")
    if archive.endswith(".rcc"):
        return qt_resource(contents[archive], inner, path)
    if archive.endswith(".cat"):
        return openttd_sound(contents[archive], int(inner))
    return contents[archive]


def qt_resource(content: bytes, wanted: str, path: Path) -> bytes:
    """A file stored uncompressed in a Qt resource file of version 3 (qtbase, src/corelib/io/qresource.cpp).

    Raises:
        ValueError: it is not there, or compressed.
    """
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
            raise ValueError(f"{path}: {wanted} is not in its Qt resource file")
    flags = struct.unpack(">H", content[tree + index * 22 + 4 :][:2])[0]
    if flags & QT_COMPRESSED:
        raise ValueError(f"{path}: {wanted} is compressed in its Qt resource file")
    start = data + struct.unpack(">I", content[tree + index * 22 + 10 :][:4])[0]
    length = struct.unpack(">I", content[start : start + 4])[0]
    return content[start + 4 : start + 4 + length]


def openttd_sound(content: bytes, number: int) -> bytes:
    """Sound `number` of an OpenTTD sample catalogue: a table of offsets, then a name and a RIFF file each."""
    offset = struct.unpack("<I", content[8 * number :][:4])[0] & 0x7FFFFFFF
    riff = content.index(b"RIFF", offset)
    return content[riff : riff + 8 + struct.unpack("<I", content[riff + 4 : riff + 8])[0]]
