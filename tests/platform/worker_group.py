"""Groups of real processes, joined by gloo and DeepSpeed, that train a few steps of a tiny model without Ray."""

import contextlib
import copy
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from running import run_processes
from sdavs_platform.config.tree import RunConfig


def run_group(world_size: int, lives: list[dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """Let `world_size` processes live some lives, one after another.

    Returns:
        By name of the life: "losses", "applied" (whether gradients were), "norms" of gradients and learning "rates" of
        its steps, and the loss of the first batch of all, the same in every life, in evaluation mode: "before" (of
        lives that begin at the beginning) and "after"; "averaged", the squared length of each parameter's average,
        None without `training.ema`.

    Args:
        lives: each with "name", "config" (plain values), "steps" (from, to), "load", a folder or None, and "save",
            None or (after which step, folder). Also "poisoned", the step in which the last worker's gradients are not
            finite, and "validates", whether "scores" of the validation split are wanted.
    """
    rendezvous = folder / f"rendezvous-{lives[0]['name']}"
    run_processes(_worker, (world_size, lives, str(rendezvous)), number=world_size)
    return json.loads(rendezvous.with_suffix(".json").read_text())


class Poison(torch.autograd.Function):
    """The same value with gradients that are not finite."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * float("inf")


def _worker(rank: int, world_size: int, lives: list[dict[str, Any]], rendezvous: str) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_SIZE=str(world_size)
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    results = {life["name"]: _live(life, rank=rank, world_size=world_size) for life in lives}
    if rank == 0:
        Path(f"{rendezvous}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


def _live(life: dict[str, Any], *, rank: int, world_size: int) -> dict[str, Any]:
    from sdavs_platform.deepspeed_internals import apply_gradients
    from sdavs_platform.training.averaging import averaged
    from sdavs_platform.training.batches import Batches
    from sdavs_platform.training.checkpoints.checkpoint import (
        LoopState,
        Probe,
        UnsentMetrics,
        load_checkpoint,
        save_checkpoint,
        verify_complete,
    )
    from sdavs_platform.training.engine import CastInputs, build_engine, compute_dtype, step_losses
    from sdavs_platform.training.faults.watchdog import Watchdog
    from sdavs_platform.training.loop import seed_everything
    from sdavs_platform.training.pace import Pace
    from sdavs_platform.training.telemetry.progress import means
    from sdavs_platform.training.validator import Validator

    from sdavs_model import build_model
    from sdavs_model.training_step import training_loss

    config = RunConfig.model_validate(life["config"])
    seed_everything(config.seed, rank)
    batches = Batches(config, rank=rank, world_size=world_size)
    module = build_model(config.model)
    whole = copy.deepcopy(module) if config.deepspeed.zero_stage == 3 else None
    engine = build_engine(config, module, pace=Pace(6), world_size=world_size)
    model = CastInputs(engine, compute_dtype(config))
    state = LoopState()
    if life["load"]:
        folder = Path(life["load"])
        state, unsent = load_checkpoint(
            folder, engine=engine, rank=rank, saved_world_size=verify_complete(folder)
        )
        assert unsent.losses

    def average() -> contextlib.AbstractContextManager[dict[str, torch.Tensor] | None]:
        return contextlib.nullcontext() if config.training.ema is None else averaged(engine)

    def save(folder: Path) -> None:
        fixed = batches.fixed_batch()
        model.eval()
        with torch.no_grad(), average() as weights:
            logits = model(fixed["frames"], fixed["log_mel"])
        model.train()
        probe = Probe(
            frames=fixed["frames"], log_mel=fixed["log_mel"], logits=logits, dtype=compute_dtype(config)
        )
        unsent = UnsentMetrics(losses=[{"loss": loss.detach()}])
        # Each worker into a folder of its own, which Ray Train merges: a manifest lists only what its worker wrote.
        with tempfile.TemporaryDirectory() as own:
            save_checkpoint(
                Path(own), engine=engine, state=state, unsent=unsent, probe=probe, rank=rank, averaged=weights
            )
            dist.barrier()
            shutil.copytree(own, folder, dirs_exist_ok=True)
        dist.barrier()

    def first_batch_loss() -> float:
        batch = next(iter(batches.epoch(0)))
        model.eval()
        with torch.no_grad():
            loss = training_loss(model, batch)["loss"]
        model.train()
        return means([{"loss": loss}])["loss"]

    first, last = life["steps"]
    assert state.step == first
    before = None if life["load"] else first_batch_loss()
    losses, applied, norms, rates = [], [], [], []
    while state.step < last:
        state.epoch, state.batch = divmod(state.step, batches.sampler.num_batches)
        for batch in batches.epoch(state.epoch, first_batch=state.batch):
            loss = step_losses(engine, batch, config=config)["loss"]
            is_poisoned = state.step == life.get("poisoned") and rank == world_size - 1
            engine.backward(Poison.apply(loss) if is_poisoned else loss)
            is_applied, norm = apply_gradients(engine)
            losses.append(means([{"loss": loss}])["loss"])
            applied.append(is_applied)
            norms.append(norm)
            rates.append(max(engine.get_lr()))
            state.count_step(is_applied=is_applied)
            if life["save"] and state.step == life["save"][0]:
                save(Path(life["save"][1]))
            if state.step == last:
                break
    results = {"losses": losses, "applied": applied, "norms": norms, "rates": rates}
    results |= {"before": before, "after": first_batch_loss()}
    weights = [parameter.detach().clone() for parameter in engine.module.parameters()]
    with average() as found:
        results["averaged"] = found and {name: float(value.square().sum()) for name, value in found.items()}
    if config.deepspeed.zero_stage < 3:
        assert all(map(torch.equal, weights, engine.module.parameters()))
    if life.get("validates"):
        watchdog = Watchdog(seconds=None, rank=rank, world_size=world_size, storage="", uri="", run_id="")
        validator = Validator(engine, model, batches=batches, watchdog=watchdog, whole=whole)
        results["scores"] = validator.score()
        assert validator.predict_fixed_clips().logits.isfinite().all()
    engine.destroy()
    return results
