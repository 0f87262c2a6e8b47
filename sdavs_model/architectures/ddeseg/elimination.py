"""Dynamic elimination: which of the derived sounds the picture shows.

One module for each of the four stages. Each token attends to the picture and gets a score; the tokens, scaled by their
scores, then mark the pixels that make these sounds. An eliminated token was heard but not seen: its source is off
screen.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Variant = Literal["figure", "code"]

# Bias of the score in `figure`: initially sigmoid(3) of a token's weight survives a stage, and 0.82 all four. Our
# choice: with a bias of 0 only a sixteenth would be left after four stages, and of the gradients as well.
INITIAL_SCORE = 3.0


class DynamicElimination(nn.Module):
    """Scores audio tokens by attention to a feature map, and adds the remaining ones to its pixels.

    Args:
        channels: C of the map and the tokens.
        num_heads: attention heads; must divide `channels`.
        num_centres: learned centres from which pixels are rebuilt for the tokens' attention.
        variant: "figure": each token has a score of its own, a sigmoid, and survives by it; it may be that none does.
            "code": a softmax over the tokens and their weighted sum, one token that always survives.
        scores: false: every token counts the same.
    """

    def __init__(
        self, *, channels: int, num_heads: int, num_centres: int, variant: Variant, scores: bool = True
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.variant = variant
        self.has_scores = scores
        if scores:
            self.describe = Centres(channels=channels, number=num_centres)
            self.sound_query = nn.Linear(channels, channels, bias=False)
            self.picture_key = nn.Linear(channels, channels, bias=False)
            self.picture_value = nn.Linear(channels, channels, bias=False)
            self.score = nn.Linear(channels, 1)
            if variant == "figure":
                nn.init.constant_(self.score.bias, INITIAL_SCORE)
        self.picture_query = nn.Linear(channels, channels, bias=False)
        self.sound_key = nn.Linear(channels, channels, bias=False)
        self.sound_value = nn.Linear(channels, channels, bias=False)

    def forward(self, picture: Tensor, tokens: Tensor, survival: Tensor) -> "Eliminated":
        """picture: [N, C, H, W], tokens: [N, k, C], survival: [N, k], what earlier stages left of each token."""
        pixels = picture.flatten(2).transpose(1, 2)  # [N, P, C]
        if not self.has_scores:
            scores = torch.full_like(survival, 1.0 if self.variant == "figure" else 1 / survival.shape[1])
        else:
            rated = self.score(self._look(tokens, pixels))[..., 0]
            scores = rated.sigmoid() if self.variant == "figure" else rated.softmax(-1)
        if self.variant == "figure":
            survival = survival * scores
            marked = self._mark(pixels, tokens, survival)
        else:
            token = (scores[..., None] * tokens).sum(1, keepdim=True)
            marked = self._mark(pixels, token, torch.ones_like(survival[:, :1]))
        return Eliminated(
            picture=marked.transpose(1, 2).reshape(picture.shape), scores=scores, survival=survival
        )

    def _look(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Cross-attention of tokens [N, k, C] to pixels [N, P, C], each rebuilt from the centres: [N, k, C].

        A rebuilt pixel is a mixture of the centres, so its key and value are that mixture of the centres' keys and
        values: these are computed for a handful of centres in place of all pixels.
        """
        mixture, centres = self.describe(pixels)  # [N, P, centres], [centres, C]
        query = self._heads(self.sound_query(tokens))  # [N, heads, k, D]
        key, value = (self._heads(f(centres)[None]) for f in (self.picture_key, self.picture_value))
        agreement = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # [N, heads, k, centres]
        attention = (agreement @ mixture[:, None].transpose(-1, -2)).softmax(-1)  # [N, heads, k, P]
        return (attention @ mixture[:, None] @ value).transpose(1, 2).flatten(2)

    def _mark(self, pixels: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
        """Add tokens [N, m, C], each by its weight [N, m], to the pixels that make its sound: a sigmoid, so that
        pixels and tokens do not compete. [N, P, C]."""
        query = self._heads(self.picture_query(pixels))  # [N, heads, P, D]
        key, value = self._heads(self.sound_key(tokens)), self._heads(self.sound_value(tokens))
        gate = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).sigmoid()  # [N, heads, P, m]
        heard = gate @ (value * weights[:, None, :, None])
        return pixels + heard.transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        """[N, L, C] -> [N, heads, L, C / heads]."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Centres(nn.Module):
    """Learned centres that pixels are mixtures of.

    A module that returns tensors, because ZeRO-3 gathers a module's own parameters for the backward pass only if it
    finds tensors in what the module returned.

    Args:
        channels: C.
        number: of centres.
    """

    def __init__(self, *, channels: int, number: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(number, channels))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels: [N, P, C] -> their soft assignment to the centres [N, P, centres], and these [centres, C].

        With Gumbel noise in training only; upstream adds it in evaluation, too, so that its predictions differ from run
        to run.
        """
        centres = self.centres.clone()
        logits = pixels @ centres.T
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.softmax(-1), centres


@dataclass(frozen=True, kw_only=True)
class Eliminated:
    """The output of one stage."""

    picture: Tensor
    """[N, C, H, W], with the sounds added to the pixels that make them."""
    scores: Tensor
    """[N, k], this stage's score of each token. "figure": 0 to 1 each. "code": they add up to 1."""
    survival: Tensor
    """[N, k], what is left of each token, 0 to 1: "figure": the product of the scores so far. Else as it was."""
