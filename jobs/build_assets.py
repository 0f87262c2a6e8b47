"""Rebuild the bundled photographs and recordings from the Debian packages that they come from.

Reads `sdavs_model/data/realav/assets/manifest.csv`, extracts every asset from its package, and writes the files with
their sha256, so that their origin can be verified. Download the packages named in ATTRIBUTION.md first:

    apt-get download tuxpaint-stamps-default gcompris-qt-data scratch openttd-opensfx \\
        lincity-ng-data simutrans-pak64 sonic-pi-samples etw-data lmms-common lugaru-data mate-media-common \\
        megaglest-data searchandrescue-data torcs-data widelands-data \\
        asterisk-core-sounds-{en,fr,it,ru}-wav
    python jobs/build_assets.py --packages . --out sdavs_model/data/realav/assets
"""

from pathlib import Path

from _flags import job_parser
from _job import run_job


def main() -> None:
    parser = job_parser(__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="folder of the downloaded .deb files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the assets, with its manifest.csv")
    flags = parser.parse_args()
    from sdavs_model.data.realav.bundled_assets import rebuild

    rebuild(flags.packages, flags.out)


if __name__ == "__main__":
    run_job(main)
