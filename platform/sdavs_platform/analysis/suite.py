"""The analyses by name, and the call that runs them, writes their results and logs them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdavs_model.analysis.hooks import damf_modules, snrp_modules
from sdavs_model.encoders.features import NUM_LEVELS
from sdavs_platform.analysis import attention, consistency, elimination, listening, maps, response
from sdavs_platform.analysis import noise_robustness as noise
from sdavs_platform.analysis.inputs import AnalysisInputs, open_inputs, open_subject
from sdavs_platform.analysis.result import AnalysisResult, log_result, write_result
from sdavs_platform.config.paths import state_folder
from sdavs_platform.tracking.client import log_or_warn, tracking_uri

NAMES = ("noise", "consistency", "maps", "attention", "response", "listening", "elimination")
NEEDS = {
    "maps": snrp_modules,
    "response": snrp_modules,
    "consistency": damf_modules,
    "attention": damf_modules,
    "elimination": elimination.require_elimination,
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to analyse and how; each field is a flag of `jobs/analyse.py`."""

    names: tuple[str, ...]
    model: str = "models:/sdavs@champion"
    without_snrp: str | None = None
    data: str | None = None
    split: str | None = None
    limit: int | None = None
    level: int = 1
    train_noise: str | None = None
    device: str = "cpu"
    seed: int = 0
    out: str | None = None
    tracking_uri: str | None = None
    log: bool = True


def analyse(
    request: Request, *, show: Callable[[AnalysisResult], None] = lambda result: None
) -> tuple[dict[str, AnalysisResult], dict[str, str]]:
    """Run the analyses one after another; each is written, shown and logged before the next starts.

    Of several, those that do not apply to the model (another architecture, no SNRP, no DAMF) are skipped.

    Args:
        show: prints a result.

    Returns:
        The results by name, and the reason for each skipped analysis.

    Raises:
        ValueError: an unknown model, data set, split, level or sound file; a single analysis that
            does not apply to the model.
    """
    inputs = _inputs(request, request.model)
    if not 1 <= request.level <= NUM_LEVELS:
        raise ValueError(f"--level: {request.level} is not allowed; allowed: 1 (the largest map) to 4")
    results: dict[str, AnalysisResult] = {}
    left_out: dict[str, str] = {}
    for name in request.names:
        lacking = _lacking(name, inputs)
        if lacking and len(request.names) == 1:
            raise ValueError(f"{request.model}: {lacking}")
        if lacking:
            left_out[name] = lacking
            logger.info(f"{name}: skipped, {lacking}")
            continue
        results[name] = _run(name, inputs, request)
        _keep(results[name], inputs, request, show=show)
    return results, left_out


def _lacking(name: str, inputs: AnalysisInputs) -> str:
    """Why an analysis does not apply to the model; "" if it does."""
    if name not in inputs.model.analyses:
        architecture = inputs.subject.loaded.config.architecture
        return f"{name} does not apply to {architecture}; what does: {', '.join(inputs.model.analyses)}"
    try:
        if name in NEEDS:
            NEEDS[name](inputs.model)
    except ValueError as error:
        return str(error)
    return ""


def _run(name: str, inputs: AnalysisInputs, request: Request) -> AnalysisResult:
    match name:
        case "noise":
            other = _inputs(request, request.without_snrp) if request.without_snrp else None
            return noise.run(inputs, without_snrp=other, train_noise=request.train_noise)
        case "consistency":
            return consistency.run(inputs)
        case "maps":
            return maps.run(inputs, level=request.level)
        case "attention":
            return attention.run(inputs, level=request.level)
        case "response":
            return response.run(inputs, level=request.level)
        case "listening":
            return listening.run(inputs)
        case "elimination":
            return elimination.run(inputs)
    raise AssertionError(f"no analysis {name!r}")


def _inputs(request: Request, model: str) -> AnalysisInputs:
    return open_inputs(
        open_subject(model, device=request.device, uri=request.tracking_uri),
        root=request.data,
        split=request.split,
        limit=request.limit,
        seed=request.seed,
        device=request.device,
    )


def _keep(
    result: AnalysisResult,
    inputs: AnalysisInputs,
    request: Request,
    *,
    show: Callable[[AnalysisResult], None],
) -> None:
    parent = Path(request.out) if request.out else state_folder() / "analysis"
    folder = write_result(result, parent / f"{result.name}-{inputs.subject.name}")
    logger.info(f"{result.name}: written to {folder}")
    show(result)
    if request.log and inputs.subject.run_id:
        uri = tracking_uri(request.tracking_uri)
        run_id = inputs.subject.run_id
        if log_or_warn(result.name, lambda: log_result(result, folder, run_id=run_id, uri=uri), uri=uri):
            logger.info(f"{result.name}: logged to run {run_id} as analysis/{result.name}/")
    elif request.log:
        logger.info(f"{result.name}: not logged, because a folder has no MLflow run")
