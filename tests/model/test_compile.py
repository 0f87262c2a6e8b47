"""The model compiles part by part: equal blocks share a graph, and other batch sizes and clip lengths need no other."""

import copy

import pytest
import torch

from sdavs_model import build_model
from sdavs_model.architectures.sdavs.config import SDAVSConfig
from sdavs_model.compilation import compile_in_parts


@pytest.mark.slow
def test_equal_blocks_other_batch_sizes_and_other_clip_lengths_share_graphs():
    from torch._dynamo.testing import CompileCounter  # seconds, in every process that collects the tests
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    config = SDAVSConfig(
        backbone="pvt_v2_b0", image_size=32, width=16, num_heads=2, vggish_width=0.02, num_frames=5
    )
    model = build_model(config).train()
    eager = copy.deepcopy(model)
    graphs = CompileCounter()
    compile_in_parts(model, backend=graphs)
    # Fewer than 16 frames in all would be compiled once more, because torch chooses its convolutions by that.
    for num_clips, num_frames in ((4, 5), (6, 3)):
        frames = torch.randn(num_clips, num_frames, 3, 32, 32)
        log_mel = torch.randn(num_clips, num_frames, 1, 96, 64)
        with torch.random.fork_rng():  # which path is dropped
            expected = eager(frames, log_mel)
        torch.testing.assert_close(model(frames, log_mel), expected, rtol=1e-4, atol=1e-5)
    # Two blocks in each of four stages; four levels, audio encoder, audio attention and decoder.
    assert graphs.frame_count == 4 + 4 + 3
    assert not counters["graph_break"]


def test_a_copy_of_a_compiled_model_is_not_compiled():
    from torch._dynamo.testing import CompileCounter

    config = SDAVSConfig(backbone="test_resnet", image_size=32, width=16, num_heads=2, vggish_width=0.02)
    model = build_model(config).eval()
    graphs = CompileCounter()
    compile_in_parts(model, backend=graphs)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.fill_(float("nan"))
        logits = copied(torch.randn(2, 5, 3, 32, 32), torch.randn(2, 5, 1, 96, 64))
    assert logits.isnan().all()
    assert graphs.frame_count == 0


def test_a_block_with_a_hook_is_not_compiled_so_that_the_hook_is_called():
    config = SDAVSConfig(backbone="test_resnet", image_size=32, width=16, num_heads=2, vggish_width=0.02)
    model = build_model(config)
    blocks = [m for m in model.visual_encoder.modules() if type(m).__name__ == "BasicBlock"]
    blocks[0].register_forward_hook(lambda *_: None)
    compile_in_parts(model)
    assert [block._compiled_call_impl is None for block in blocks[:2]] == [True, False]
