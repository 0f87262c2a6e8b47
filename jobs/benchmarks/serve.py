"""Throughput and latency of the endpoint under increasing load, compared with the bare model in-process.

    python jobs/benchmark.py serve                                          the champion, a drawn clip of five seconds
    python jobs/benchmark.py serve --video clip.mp4 --clients 1 4 16 --seconds 30
    python jobs/benchmark.py serve --num-gpus 0.5 --max-batch-frames 80
    python jobs/benchmark.py serve --untrained                              random weights, without MLflow
    python jobs/benchmark.py serve --untrained --config jobs/configs/demo.yaml      the demo's model, untrained
    python jobs/benchmark.py serve --max-replicas 2 --clients 8             replicas added and removed with the load

Starts its own Ray twice: once without batching, once with. With --max-replicas above 1 it
shows how the number of replicas follows the load instead. A running endpoint is not touched.

"overhead" is the median time of a request without decoding and the model's call. CPU time is that of a clip in all
processes of the endpoint, without what they take when idle; unlike the time by the clock it hardly depends on what
else the machine does.
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _flags import add_json, add_model, add_numbers, add_tracking_uri
from _job import print_result

if TYPE_CHECKING:
    from sdavs_platform.config.tree import ServeConfig


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `benchmark.py serve`."""
    what = parser.add_argument_group("what is measured")
    add_model(what)
    what.add_argument(
        "--untrained",
        action="store_true",
        help="measure a small model with random weights instead of --model; needs no MLflow",
    )
    what.add_argument(
        "--config",
        help="with --untrained: a training's YAML file whose model to measure (default: a small one)",
    )
    what.add_argument(
        "--video", type=Path, help="clip that every request sends (default: a drawn one of 5 s)"
    )
    add_numbers(what, "--clients", (1, 2, 4, 8), "requests at once, one measurement each")
    what.add_argument("--seconds", type=float, default=15, help="of each measurement (default: %(default)s)")
    what.add_argument("--num-gpus", type=float, default=0, help="GPUs of one model replica (default: none)")
    what.add_argument(
        "--max-replicas",
        type=int,
        default=1,
        help="model replicas under load; above 1 a timeline of them is printed (default: %(default)s)",
    )
    what.add_argument(
        "--max-requests",
        type=int,
        help="requests that are admitted at the same time; others are refused and counted separately "
        "(default: the most clients)",
    )
    what.add_argument(
        "--max-batch-frames", type=int, help="frames of one forward pass (default: the endpoint's)"
    )
    add_tracking_uri(what)
    add_json(parser.add_argument_group("where it goes"))


def run(flags: argparse.Namespace) -> None:
    """Measure and print the table."""
    from sdavs_platform.config.serve import RolloutConfig, ServeConfig
    from sdavs_platform.local.sample import write_video
    from sdavs_platform.tracking.client import tracking_uri
    from sdavs_serve.tools.load_test import measure, report_table, to_json

    from sdavs_model.golden import standard_clip

    if flags.config and not flags.untrained:
        raise ValueError("--config: only with --untrained; a registered model has its own")
    settings = {"model_uri": flags.model, "tracking_uri": flags.tracking_uri}
    config = ServeConfig(
        num_gpus=flags.num_gpus,
        max_requests=flags.max_requests or max(flags.clients),
        max_replicas=flags.max_replicas,
        # A measurement is shorter than Serve's own patience.
        scale_up_after_s=2,
        scale_down_after_s=5,
        rollout=RolloutConfig(bake_s=0),
        **({"max_batch_frames": flags.max_batch_frames} if flags.max_batch_frames else {}),
    )
    with tempfile.TemporaryDirectory() as scratch:
        if flags.untrained:
            settings = _registered_untrained(Path(scratch), flags.config)
        settings["tracking_uri"] = tracking_uri(settings["tracking_uri"])
        config = config.model_copy(update=settings)
        video = flags.video or Path(scratch) / "clip.mp4"
        if not flags.video:
            write_video(standard_clip(5), video)
        load = {"video": video.read_bytes(), "seconds": flags.seconds}
        if flags.max_replicas > 1:
            _follow(config, max(flags.clients), load, as_json=flags.json)
            return
        rows = measure(config, clients=flags.clients, **load)
    print_result(json.dumps(to_json(rows), indent=2) if flags.json else report_table(rows))


def _registered_untrained(folder: Path, training: str | None) -> dict[str, str]:
    """A training's model, else a small one, with random weights, champion of a registry in `folder`."""
    from sdavs_platform.config.cli import load_config
    from sdavs_platform.tracking.client import mlflow_client
    from sdavs_platform.tracking.registry import promote, register_artifact

    from sdavs_model import SDAVSConfig, build_model, save_artifact

    small = SDAVSConfig(backbone="resnet10t", image_size=128, width=64, num_heads=4, vggish_width=0.125)
    config = (load_config([training]).model if training else small).without_weights()
    uri = f"sqlite:///{folder}/mlflow.db"
    save_artifact(
        folder / "artifact",
        model=build_model(config).eval(),
        classes=["background", "sounding object"],
        metrics={},
        lineage={},
    )
    client = mlflow_client(uri)
    experiment = client.create_experiment("benchmark", artifact_location=f"{folder}/artifacts")
    run = client.create_run(experiment)
    version = register_artifact(
        folder / "artifact", name="untrained", config=config, run_id=run.info.run_id, tags={}, uri=uri
    )
    promote("untrained", version, uri=uri)
    return {"model_uri": "models:/untrained@champion", "tracking_uri": uri}


def _follow(config: "ServeConfig", clients: int, load: dict[str, Any], *, as_json: bool) -> None:
    from sdavs_serve.tools.load_scaling import follow_load, timeline
    from sdavs_serve.tools.load_test import to_json

    # One more than the ingress takes, so that its refusals show, too.
    moments, row = follow_load(config, clients=clients + 1, **load)
    if as_json:
        print_result(
            json.dumps({"replicas": [asdict(moment) for moment in moments], "load": to_json([row])}, indent=2)
        )
        return
    print_result(timeline(moments))
    print_result(f"{row.clips_per_s:.2f} clips/s, {row.refused} answers of 429 to the client too many")
