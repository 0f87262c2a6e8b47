"""Discriminative Audio-Visual Mutual Fusion, paper III-C, equations (4) to (7).

Both streams are enhanced (STC), each attends to the other (CMA), and each attention output is multiplied with the
stream that its queries did not come from (residual cross multiplication, the crossing lines of figure 2).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.architectures.sdavs.agreement import Agreement
from sdavs_model.architectures.sdavs.config import Ablation
from sdavs_model.cpu_memory import may_overwrite

# Bottleneck of CAR's two matrices W_1 and W_2 (equation 6).
CAR_REDUCTION = 4

# Submodules that earlier versions named otherwise; their weights are still loaded.
RENAMED = {"audio_asks": "audio_queries", "video_asks": "video_queries"}


class DAMF(nn.Module):
    """The fusion of one level.

    Args:
        width: channels C.
        num_heads: heads of both attentions.
        stride: spatial stride of STC, which limits the number of tokens of the larger levels.
        key_stride: spatial stride of keys and values relative to STC's grid.
        ablation: decides with `direction`, `stc`, `car` and `rm`.
    """

    def __init__(
        self, *, width: int, num_heads: int, stride: int, key_stride: int, ablation: Ablation
    ) -> None:
        super().__init__()
        attention = {"width": width, "num_heads": num_heads, "key_stride": key_stride}
        self.rm = ablation.rm
        self.place = AudioPlacement(width=width, num_heads=num_heads)
        self.stc_audio = self.stc_video = None
        if ablation.stc:
            # The audio map is made on STC's grid: audio has no detail for a finer one.
            self.stc_audio = STC(width=width, stride=1, car=ablation.car)
            self.stc_video = STC(width=width, stride=stride, car=ablation.car)
        self.audio_queries = self.video_queries = None
        if ablation.direction in ("both", "av"):
            self.audio_queries = CrossModalAttention(**attention)
        if ablation.direction in ("both", "va"):
            self.video_queries = CrossModalAttention(**attention)
        self.register_load_state_dict_pre_hook(_rename_earlier)

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse one level.

        Args:
            video: F'_v, [B, T, C, H, W].
            audio: F_a, [B, T, C].

        Returns:
            F'_{a->v} on STC's grid [B, T, C, H / stride, W / stride] and F'_{v->a} [B, T, C, H, W]. With one
            direction ablated, the stream that it would have been multiplied with is returned instead.
        """
        video_tokens = video if self.stc_video is None else self.stc_video(video)
        audio_map = self.place(video_tokens, audio)
        audio_tokens = audio_map if self.stc_audio is None else self.stc_audio(audio_map)
        fused_video, fused_audio = audio_map, video
        if self.video_queries is not None:
            from_audio = self.video_queries(query=video_tokens, source=audio_tokens)  # F_{a->v}
            fused_video = self._combine(from_audio, audio_map)
        if self.audio_queries is not None:
            from_video = self.audio_queries(query=audio_tokens, source=video_tokens)  # F_{v->a}
            fused_audio = self._combine(from_video, video)
        return fused_video, fused_audio

    def _combine(self, attended: Tensor, other: Tensor) -> Tensor:
        """Residual cross multiplication, equation (7), or its variants of Table VIII.

        Our reading of "residual" and "thereby preserving original features": other + attended * other. A bare
        product would be zero wherever the attention output is near zero, as it is before training.
        """
        resized = _resize(attended, other.shape[-2:])
        if self.rm == "multiply":
            result = resized if may_overwrite() and resized is not attended else None
            return torch.addcmul(other, resized, other, out=result)
        if self.rm == "add":
            return other + resized
        return resized


def _rename_earlier(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the weights of earlier versions; the order of the dictionary stays."""
    for key in [*state]:
        part, dot, rest = key.removeprefix(prefix).partition(".")
        renamed = key.startswith(prefix) and RENAMED.get(part)
        value = state.pop(key)
        state[f"{prefix}{renamed}{dot}{rest}" if renamed else key] = value


class AudioPlacement(nn.Module):
    """F_a "upsampled and convolved to match the video features": a map of the audio on the grid of the video.

    A vector repeated at every position would make all audio queries the same. Our choice: it is weighted by its
    head-wise agreement with the video features, as figure 6's audio maps suggest.
    """

    def __init__(self, *, width: int, num_heads: int) -> None:
        super().__init__()
        self.agreement = Agreement(width=width, num_heads=num_heads)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """video: [B, T, C, H, W], audio: [B, T, C] -> audio map [B, T, C, H, W]."""
        B, T, C, H, W = video.shape
        num_heads = self.agreement.num_heads
        weight = torch.sigmoid(self.agreement(audio.flatten(0, 1), video.flatten(0, 1)))
        weight = weight.permute(0, 2, 3, 1).unsqueeze(-1)  # [BT, H, W, heads, 1]
        placed = weight * audio.view(B * T, 1, 1, num_heads, C // num_heads)
        return placed.view(B, T, H, W, C).permute(0, 1, 4, 2, 3)


class STC(nn.Module):
    """Spatial-Temporal-Channel feature enhancer: a depthwise 3-D convolution, then CAR (figure 2).

    Args:
        width: channels C.
        stride: spatial stride; attention then runs on a grid with a side `stride` times smaller.
        car: with the channel-wise adaptive recalibration.
    """

    def __init__(self, *, width: int, stride: int, car: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv3d(width, width, 3, stride=(1, stride, stride), padding=1, groups=width)
        self.stride = stride
        self.car = CAR(width=width) if car else None

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, C, H, W] -> [B, T, C, H / stride, W / stride]."""
        convolved = self._by_frames(x) if x.device.type == "cpu" else self._by_volumes(x)
        # In place, as the backward pass of GELU needs its input alone.
        enhanced = F.gelu(convolved).add_(x if self.stride == 1 else self._shrink(x))
        return enhanced if self.car is None else self.car(enhanced)

    def _by_volumes(self, x: Tensor) -> Tensor:
        return self.depthwise(x.transpose(1, 2)).transpose(1, 2)

    def _by_frames(self, x: Tensor) -> Tensor:
        """The same as three convolutions of single frames, of which two are moved by a second.

        On a CPU torch has no fast depthwise convolution of volumes: this takes a tenth of the time for single seconds
        and two thirds for five. It also avoids an error of torch 2.11, which in bf16 computes wrong weight gradients
        for volumes of two frames in channels-last memory.
        """
        B, T = x.shape[:2]
        C = x.shape[2]
        frames = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        before, here, after = self.depthwise.weight.unbind(2)

        def convolve(weight: Tensor, bias: Tensor | None = None) -> Tensor:
            convolved = F.conv2d(frames, weight, bias, stride=self.stride, padding=1, groups=C)
            return convolved.unflatten(0, (B, T))

        convolved = convolve(here, self.depthwise.bias)
        if T > 1:
            convolved[:, 1:] += convolve(before)[:, :-1]
            convolved[:, :-1] += convolve(after)[:, 1:]
        return convolved

    def _shrink(self, x: Tensor) -> Tensor:
        small = F.avg_pool2d(x.flatten(0, 1), self.stride, ceil_mode=True)
        return small.unflatten(0, x.shape[:2])


class CAR(nn.Module):
    """Channel-wise Adaptive Recalibration: X * sigmoid(W_2 delta(W_1 GAP(X))) (equation 6)."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        hidden = max(8, width // CAR_REDUCTION)
        self.weigh = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, C, H, W] -> the same shape."""
        return x * torch.sigmoid(self.weigh(x.mean((-2, -1))))[..., None, None]


class CrossModalAttention(nn.Module):
    """CMA: x + softmax(Q K^T / sqrt(d)) V with Q = Conv(LN(x)) and K, V = Conv_strided(LN(y)) (equation 5).

    The identity of the query is our choice. With it the residual multiplication (equation 7) multiplies one modality
    by the other, as the text describes; attention alone returns a mean of the source, and the crossing lines of
    figure 2 would then multiply audio by audio and video by video.

    Attention stays within a second, where frame and sound belong together (III-A); STC carries the rest of the
    time axis. k_q = 1; k_kv = 3, depthwise and with a stride "to reduce redundancy", followed by the linear maps
    (our choice: the paper's kernel sizes are not known, these agree with its Table X).
    """

    def __init__(self, *, width: int, num_heads: int, key_stride: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_query = nn.LayerNorm(width)
        self.norm_source = nn.LayerNorm(width)
        self.reduce = nn.Conv2d(width, width, 3, stride=key_stride, padding=1, groups=width)
        # No biases: those of the normalisation and of `reduce` have the same effect.
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, *, query: Tensor, source: Tensor) -> Tensor:
        """query, source: [B, T, C, H, W] -> the same shape, `query` plus what it attended to."""
        B, T, C, H, W = query.shape
        tokens = self.norm_query(query.permute(0, 1, 3, 4, 2).reshape(B * T, H * W, C))
        normed = self.norm_source(source.flatten(0, 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        context = self.reduce(normed).permute(0, 2, 3, 1).flatten(1, 2)  # [BT, HW / key_stride^2, C]
        q = self._split(self.query(tokens))
        k, v = (self._split(part) for part in self.key_value(context).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v)  # [BT, heads, HW, C / heads]
        out = self.out(attended.transpose(1, 2).flatten(2))
        return out.view(B, T, H, W, C).permute(0, 1, 4, 2, 3).add_(query)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """x: [B, T, C, h, w] -> [B, T, C, *size], bilinear."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    flat = F.interpolate(x.flatten(0, 1), size=tuple(size), mode="bilinear", align_corners=False)
    return flat.unflatten(0, x.shape[:2])
