"""Make, import, check, count and upload data sets.

    python jobs/prepare_data.py                            the bundled demo set, as `make demo` and a bare training do
    python jobs/prepare_data.py --out data --num-train 2000 --size 224
    python jobs/prepare_data.py realav --out data/realav   RealAV with its four subsets, from Debian packages
    python jobs/prepare_data.py validate /data/AVSBench/Multi-sources
    python jobs/prepare_data.py import --videos raw --masks masks --out data/own
    python jobs/prepare_data.py stats data/own
    python jobs/prepare_data.py digest data/own
    python jobs/prepare_data.py bank data/own --out bank.safetensors
    python jobs/prepare_data.py upload data/own s3://bucket/own
    python jobs/prepare_data.py shard data/own s3://bucket/own-shards
    python jobs/prepare_data.py import --help              its flags; every subcommand has its own

Without a subcommand it is `demo`. The same command resumes an interrupted run.
"""

import sys

import prepare.bank
import prepare.demo
import prepare.digest
import prepare.import_videos
import prepare.realav
import prepare.shard
import prepare.stats
import prepare.upload
import prepare.validate
from _flags import job_with_subcommands
from _job import run_job

SUBCOMMANDS = {
    "demo": prepare.demo,
    "realav": prepare.realav,
    "import": prepare.import_videos,
    "validate": prepare.validate,
    "stats": prepare.stats,
    "digest": prepare.digest,
    "bank": prepare.bank,
    "upload": prepare.upload,
    "shard": prepare.shard,
}


def main() -> int | None:
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["demo", *arguments]
    flags = job_with_subcommands(__doc__, SUBCOMMANDS, title="subcommand").parse_args(arguments)
    return flags.run(flags)


if __name__ == "__main__":
    run_job(main, logs_to_stderr=True, when_interrupted="the same command resumes from here")
