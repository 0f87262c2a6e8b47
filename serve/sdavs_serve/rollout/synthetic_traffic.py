"""Golden clips sent to both versions while there is no real traffic to compare them on."""

import random
import time

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from sdavs_serve.model_calls import CALL_LOST, GoldenReport, Masks, within
from sdavs_serve.rollout.trial_gates import Observation, disagreement

THRESHOLD = 0.5


async def compare_on_golden_clip(
    *,
    active: tuple[DeploymentHandle, int],
    candidate: tuple[DeploymentHandle, int],
    report: GoldenReport,
    stage: int,
    timeout_s: float,
) -> list[Observation]:
    """Send one golden clip to both, one after the other.

    Args:
        active: handle and version.
        candidate: handle and version.
        report: holds the clips; one is drawn at random.
        stage: of the rollout's document.
        timeout_s: longest time of either call.

    Returns:
        What was observed; nothing if a replica died during the call.
    """
    clip = random.choice(report.clips)
    times: dict[str, float] = {}
    masks: dict[str, Masks | None] = {}
    for who, (handle, version) in (("active", active), ("candidate", candidate)):
        started = time.perf_counter()
        try:
            masks[who] = await within(timeout_s, handle.segment.remote(version, clip, THRESHOLD))
        except CALL_LOST:
            return []
        except (RayTaskError, TimeoutError):
            failed = Observation(stage=stage, who=who, ok=False, seconds=0.0)  # type: ignore[arg-type]
            return [failed]
        times[who] = time.perf_counter() - started
    left, right = masks["active"], masks["candidate"]
    if left is None or right is None:
        return []
    differ = disagreement(left.masks, right.masks)
    return [
        Observation(stage=stage, who="active", ok=True, seconds=times["active"]),
        Observation(stage=stage, who="candidate", ok=True, seconds=times["candidate"], disagreement=differ),
    ]
