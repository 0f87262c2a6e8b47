"""Search for better configurations, or run a study such as the paper's ablations; ends with a report.

    ray job submit -- python jobs/tune.py --sweep jobs/configs/sweeps/search.yaml
    python jobs/tune.py --study ablation/tables --seeds 0 1 2 --config jobs/configs/ms3_swin.yaml
    python jobs/tune.py --study ablation/III,VI --name ablation
    python jobs/tune.py --study noise --seeds 0 1
    python jobs/tune.py --study architectures                          all architectures on the same encoders

Any key of the config tree can be set for all trials, as for jobs/train.py: --optimizer.lr 3e-4. The same command
resumes a sweep where it stopped, for whatever reason, and does not repeat finished trials. jobs/report.py builds the
report of a running sweep.
"""

import argparse
import os
import sys
import webbrowser
from pathlib import Path

from _flags import job_parser
from _job import run_job

CONFIGS = Path(__file__).resolve().parent / "configs"
DEFAULT_CONFIG = CONFIGS / "demo.yaml"
ARCHITECTURES = CONFIGS / "sweeps" / "architectures.yaml"
"""What `--study architectures` reads without --sweep: sizes of the models, and seeds."""


def parser() -> argparse.ArgumentParser:
    """The sweep's own flags, and all keys of the config tree."""
    from sdavs_platform.config.cli import add_config_flags

    flags = job_parser(
        __doc__,
        usage="%(prog)s (--sweep FILE | --study STUDY) [--config FILE ...] [--SECTION.KEY VALUE ...]",
    )
    sweep = flags.add_argument_group("the sweep; these override the keys of --sweep")
    sweep.add_argument("--sweep", type=Path, metavar="FILE", help="YAML or Python file that defines it")
    sweep.add_argument(
        "--study", help="ablation/tables, ablation/III,VI, ablation/full,rm_add, noise or architectures"
    )
    sweep.add_argument(
        "--name", help="name of the sweep; the same name resumes it (default: the file's, else sweep)"
    )
    sweep.add_argument("--seeds", type=int, nargs="+", help="seeds of every variant of a study (default: 0)")
    sweep.add_argument("--num-trials", type=int, help="trials of a random or Optuna search (default: 20)")
    sweep.add_argument("--max-concurrent", type=int, help="trials at once (default: what the cluster holds)")
    sweep.add_argument("--retry-failed", action="store_true", help="run failed trials again")
    sweep.add_argument(
        "--open", action="store_true", help="show the report in a browser, if there is a screen"
    )
    add_config_flags(flags, default_yaml=DEFAULT_CONFIG, without=["name"])
    return flags


def main() -> int:
    flags, unknown = parser().parse_known_args()
    keys = vars(flags)
    path, files = keys.pop("sweep"), keys.pop("config")
    retry_failed, opens = keys.pop("retry_failed"), keys.pop("open")
    own = {key: keys.pop(key) for key in ("study", "name", "seeds", "num_trials", "max_concurrent")}
    if path is None and (own["study"] or "").partition("/")[0] == "architectures":
        path = ARCHITECTURES
    from sdavs_platform.command import FAILED, INTERRUPTED, complain, refuse
    from sdavs_platform.config.cli import load_config, overrides_of
    from sdavs_platform.tuning.sweep import load_sweep

    try:
        sweep = load_sweep(path, {key: value for key, value in own.items() if value is not None})
        config = load_config([*(files or [DEFAULT_CONFIG]), sweep.base], overrides_of(keys, unknown))
    except ValueError as error:
        refuse(str(error))
    from sdavs_platform.tuning.report.build import build_report
    from sdavs_platform.tuning.run import run_sweep  # Ray and MLflow take seconds: not for --help

    result = run_sweep(
        sweep, config, command=["python", "jobs/tune.py", *sys.argv[1:]], retry_failed=retry_failed
    )
    report = build_report(result.store, parent=result.parent)
    print(f"{sweep.name}: {result.num_finished} finished, {result.num_failed} failed")
    if result.candidate:
        print(f"  candidate  models:/{result.candidate['model']}/{result.candidate['version']}")
    print(f"  report     {report.as_uri()}")
    # Without a screen Python would start a text browser, which shows no charts and blocks until it is closed.
    if opens and (sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()):
        webbrowser.open(report.as_uri())
    if result.interrupted:
        complain("interrupted; finished trials are kept, and the same command resumes the sweep")
        return INTERRUPTED
    if result.failure:
        complain(f"{sweep.name}: {result.failure}")
        return FAILED
    return 0


if __name__ == "__main__":
    run_job(main, expected=(RuntimeError,), when_interrupted="the same command resumes the sweep")
