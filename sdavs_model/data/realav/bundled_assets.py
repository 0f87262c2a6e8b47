"""Making the bundled photographs and recordings again from the Debian packages that they come from."""

import csv
import hashlib
from pathlib import Path

from sdavs_model.data.realav.asset_encoding import make_asset
from sdavs_model.data.realav.debian_packages import find_package, read_package

CUT_OUT_SIDE = 160
BACKGROUND_SIDE = 192

ATTRIBUTION = """# Where the bundled photographs and recordings come from

The MIT licence of the code does not cover these files: each keeps its own licence, named below. All come from
packages of Debian 12 (bookworm), main section; what a package states is in its `usr/share/doc/*/copyright`.
They were changed: photographs were trimmed and scaled, recordings were converted to 16 kHz mono, their pauses
cut out and their loudness made equal (`jobs/build_assets.py`). `manifest.csv` gives category, split and sha256.

| package | version | what it states |
|---|---|---|
| tuxpaint-stamps-default | 2022.06.04-1 | GPL-2, (c) 2002-2022 Bill Kendrick and contributors |
| gcompris-qt-data | 3.1-2 | GPL-3+; README files next to the sounds; memory-sound LR*: Free Art License 1.2, LAL-1.2 |
| scratch | 1.4.0.6~dfsg1-6.1 | Media: CC-BY-SA-3.0, (c) 2011 Massachusetts Institute of Technology |
| openttd-opensfx | 1.0.3-2 | the set: CC-BY-SA-3.0; each sound CC-BY-3.0 or CC0-1.0, named in the catalogue |
| lincity-ng-data | 2.9~git20150314-5 | GPL-2+ (sounds also CC-BY-SA-2.0) |
| simutrans-pak64 | 121.0-1 | Artistic-1.0 |
| sonic-pi-samples | 3.2.2~repack-8 | samples: CC0-1.0 (samples/README.md) |
| asterisk-core-sounds-en-wav, -fr-wav | 1.6.1-1 | CC-BY-SA-3.0, (c) Allison Smith; (c) June Wallack |
| asterisk-core-sounds-it-wav, -ru-wav | 1.6.1-1 | CC-BY-3.0, (c) 2012 Carlo Flora; (c) 2010 Maxim Topal |
| etw-data | 3.6+svn162-6 | GPL-2+, (c) 1997-2011 Gabriele Greco |
| lmms-common | 1.2.2+dfsg1-6 | GPL-2+ but for named projects and plugins |
| lugaru-data | 1.2-6 | Data: CC-BY-SA-3.0, (c) 2003, 2010 Wolfire Games |
| mate-media-common | 1.26.0-2 | data/sounds: GPL-2+ |
| megaglest-data | 3.13.0-3 | CC-BY-SA-3.0, (c) 2001-2008 The Glest Team, 2008-2017 The MegaGlest Team |
| searchandrescue-data | 1.3.0-1.1 | GPL without a version, (c) 1999-2004 WolfPack Entertainment |
| torcs-data | 1.3.7+dfsg-5 | GPL-2+ but for named cars, tracks and code |
| widelands-data | 2:1.1-3 | GPL-2+ but for fonts and music, (c) 2002-2019 the Widelands Development Team |

Licence texts: GPL https://www.gnu.org/licenses/, CC https://creativecommons.org/licenses/,
LAL https://artlibre.org/licence/lal/, Artistic-1.0 https://spdx.org/licenses/Artistic-1.0.html
"""


def rebuild(packages: Path, out: Path) -> None:
    """Write every asset that `out/manifest.csv` lists, its sha256 in the manifest, and ATTRIBUTION.md.

    Args:
        packages: folder of the downloaded .deb files.

    Raises:
        ValueError: a package is missing.
    """
    manifest = out / "manifest.csv"
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for package in sorted({row["package"] for row in rows}):
        taken = [row for row in rows if row["package"] == package]
        contents = read_package(find_package(packages, package), [row["member"] for row in taken])
        for row in taken:
            asset = make_asset(
                row["kind"],
                contents[row["member"]],
                cut_out_side=CUT_OUT_SIDE,
                background_side=BACKGROUND_SIDE,
            )
            path = out / row["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(asset)
            row["sha256"] = hashlib.sha256(asset).hexdigest()
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (out / "ATTRIBUTION.md").write_text(attribution(rows), encoding="utf-8")


def attribution(rows: list[dict[str, str]]) -> str:
    """The text of ATTRIBUTION.md: where each asset comes from and which licence allows its redistribution."""
    table = [
        f"| {row['path']} | {row['credit']} | {row['licence']} | {row['package']}: `{row['member']}` |"
        for row in rows
    ]
    return "\n".join([ATTRIBUTION, "| file | by | licence | source |", "|---|---|---|---|", *table, ""])
