"""The analyses by name, and the one call that runs, writes and logs them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdavs_model.analysis.hooks import damf_modules, snrp_modules
from sdavs_platform.analysis import attention, consistency, listening, maps, response
from sdavs_platform.analysis import noise_robustness as noise
from sdavs_platform.analysis.inputs import AnalysisInputs, open_inputs, open_subject
from sdavs_platform.analysis.result import AnalysisResult, log_result, write_result
from sdavs_platform.config.paths import state_folder
from sdavs_platform.tracking.client import tracking_uri

NAMES = ("noise", "consistency", "maps", "attention", "response", "listening")
NEEDS = {
    "maps": snrp_modules,
    "response": snrp_modules,
    "consistency": damf_modules,
    "attention": damf_modules,
}
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asked for; one field a flag of `jobs/analyse.py`."""

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


def analyse(request: Request, *, say: Say) -> tuple[dict[str, AnalysisResult], dict[str, str]]:
    """Run the analyses one after the other; each is on disk and in MLflow before the next begins.

    Of several, one that the model cannot answer for (no SNRP, no DAMF) is left out.

    Returns:
        The results by name, and for each analysis left out the reason.

    Raises:
        ValueError: an unknown model, data set, split, level or sound file; a single analysis that the model
            cannot answer for.
    """
    inputs = _inputs(request, request.model, say)
    if not 1 <= request.level <= len(inputs.subject.loaded.model.levels):
        raise ValueError(f"--level: {request.level} is not allowed; allowed: 1 (the largest map) to 4")
    results: dict[str, AnalysisResult] = {}
    left_out: dict[str, str] = {}
    for name in request.names:
        lacking = _lacking(name, inputs)
        if lacking and len(request.names) == 1:
            raise ValueError(f"{request.model}: {lacking}")
        if lacking:
            left_out[name] = lacking
            say(f"{name}: left out, {lacking}")
            continue
        results[name] = _run(name, inputs, request, say)
        _keep(results[name], inputs, request, say)
    return results, left_out


def _lacking(name: str, inputs: AnalysisInputs) -> str:
    """What an analysis looks into and the model does not have; "" if it has all."""
    try:
        if name in NEEDS:
            NEEDS[name](inputs.model)
    except ValueError as error:
        return str(error)
    return ""


def _run(name: str, inputs: AnalysisInputs, request: Request, say: Say) -> AnalysisResult:
    match name:
        case "noise":
            other = _inputs(request, request.without_snrp, say) if request.without_snrp else None
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
    raise AssertionError(f"no analysis {name!r}")


def _inputs(request: Request, model: str, say: Say) -> AnalysisInputs:
    return open_inputs(
        open_subject(model, device=request.device, uri=request.tracking_uri),
        root=request.data,
        split=request.split,
        limit=request.limit,
        seed=request.seed,
        device=request.device,
        say=say,
    )


def _keep(result: AnalysisResult, inputs: AnalysisInputs, request: Request, say: Say) -> None:
    parent = Path(request.out) if request.out else state_folder() / "analysis"
    folder = write_result(result, parent / f"{result.name}-{inputs.subject.name}")
    say(f"{result.name}: written to {folder}")
    if request.log and inputs.subject.run_id:
        uri = tracking_uri(request.tracking_uri)
        log_result(result, folder, run_id=inputs.subject.run_id, uri=uri)
        say(f"{result.name}: logged to run {inputs.subject.run_id} as analysis/{result.name}/")
    elif request.log:
        say(f"{result.name}: not logged, a folder belongs to no MLflow run")
