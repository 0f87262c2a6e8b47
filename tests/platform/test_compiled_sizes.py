"""A compiled training uses one graph for batches of other sizes."""

import pytest
import torch
from sdavs_platform.training.engine import CastInputs
from torch import nn


class Mean(nn.Module):
    def forward(self, frames: torch.Tensor, log_mel: torch.Tensor, present: None = None) -> torch.Tensor:
        return frames.mean((2, 3, 4)) + log_mel.mean((2, 3, 4))


@pytest.mark.parametrize(("is_compiled", "num_graphs"), [(True, 1), (False, 2)])
def test_clips_and_frames_may_vary_in_a_compiled_training(is_compiled, num_graphs):
    from torch._dynamo.testing import CompileCounter  # seconds, in every process that collects the tests

    torch._dynamo.reset()
    graphs = CompileCounter()
    model = CastInputs(torch.compile(Mean(), backend=graphs), torch.float32, is_compiled=is_compiled)
    for num_clips, num_frames in ((2, 5), (4, 3)):
        frames, log_mel = (
            torch.ones(num_clips, num_frames, 3, 8, 8),
            torch.ones(num_clips, num_frames, 1, 4, 4),
        )
        assert model(frames, log_mel).tolist() == [[2.0] * num_frames] * num_clips
    assert graphs.frame_count == num_graphs
