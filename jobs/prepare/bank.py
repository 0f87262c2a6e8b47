"""Make a bank of audio semantics for DDESeg from the seconds in which one class sounds alone.

    python jobs/prepare_data.py bank data/own --out bank.safetensors
    python jobs/prepare_data.py bank /data/AVSBench/Single-source --audio-encoder htsat \\
        --audio-weights htsat.audioset --out bank.safetensors

A training makes its own bank from its training split; this command makes one from other data, for the key model.bank.
It prints the classes and the digest of the split for model.bank_data_digest.
"""

import argparse
from pathlib import Path

from _flags import add_data_set, at_least_one
from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `prepare_data.py bank`."""
    add_data_set(parser)
    how = parser.add_argument_group("how")
    how.add_argument("--split", default="train", help="split to use (default: %(default)s)")
    how.add_argument(
        "--audio-encoder", default="yamnet", help="as model.audio_encoder (default: %(default)s)"
    )
    how.add_argument(
        "--audio-weights",
        default="yamnet.audioset",
        help="as model.audio_weights: a name of `jobs/prepare_weights.py list`, or a file (default: %(default)s)",
    )
    how.add_argument(
        "--num-prototypes", type=at_least_one, default=5, help="of each class (default: %(default)s)"
    )
    how.add_argument("--seed", type=int, default=0, help="of the clustering (default: %(default)s)")
    how.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")


def run(flags: argparse.Namespace) -> None:
    """Embed the sounds, cluster them, write the bank."""
    from sdavs_platform.config.paths import weights_folder
    from sdavs_platform.console import progress
    from sdavs_platform.storage.datasets import local_copy
    from sdavs_platform.tables import text_table

    from sdavs_model.architectures.ddeseg.config import DDESegConfig
    from sdavs_model.data.datasets import NUM_FRAMES, known_kind, open_dataset
    from sdavs_model.data.tools.audio_bank import make_bank
    from sdavs_model.weights.audio_bank import write_bank
    from sdavs_model.weights.store import resolve_weights

    root = local_copy(flags.root)
    kind = known_kind(flags.kind, root)
    clips = open_dataset(kind, root, flags.split, num_frames=flags.num_frames or NUM_FRAMES.get(kind, 5))
    config = DDESegConfig(
        audio_encoder=flags.audio_encoder,
        audio_weights=flags.audio_weights,
        num_prototypes=flags.num_prototypes,
    )
    resolved = resolve_weights(config, folder=weights_folder())
    with progress() as show:
        bank = make_bank(clips, resolved, num_prototypes=flags.num_prototypes, seed=flags.seed, progress=show)
    write_bank(flags.out, bank)
    record = bank.record
    rows = [[name, str(seconds)] for name, seconds in zip(record.classes, record.num_seconds, strict=True)]
    print_result(text_table(["class", "seconds alone"], rows))
    print_result(f"{flags.out}: prototypes {list(bank.prototypes.shape)}, sha256 {bank.digest}")
    print_result(f"data digest of {record.split}: {record.data_digest}")
