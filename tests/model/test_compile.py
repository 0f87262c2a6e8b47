"""The model compiles whole: no part falls back to Python, and other batch sizes and clip lengths use the same graph."""

import pytest
import torch

from sdavs_model import build_model
from sdavs_model.architectures.sdavs.config import SDAVSConfig
from sdavs_model.compilation import mark_batch_sizes


@pytest.mark.slow
def test_one_graph_serves_other_batch_sizes_and_clip_lengths():
    from torch._dynamo.testing import CompileCounter  # seconds, in every process that collects the tests

    torch.manual_seed(0)
    config = SDAVSConfig(
        backbone="test_resnet", image_size=32, width=16, num_heads=2, vggish_width=0.02, num_frames=5
    )
    model = build_model(config).train()
    graphs = CompileCounter()
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    # Fewer than 16 frames in all would be compiled once more, because torch chooses its convolutions by that.
    for num_clips, num_frames in ((4, 5), (6, 7), (6, 3)):
        frames = torch.randn(num_clips, num_frames, 3, 32, 32)
        log_mel = torch.randn(num_clips, num_frames, 1, 96, 64)
        mark_batch_sizes(frames, log_mel)
        logits = compiled(frames, log_mel)
        torch.testing.assert_close(logits, model(frames, log_mel), rtol=1e-4, atol=1e-5)
    assert graphs.frame_count == 1
