"""Dynamic derivation and discriminative feature learning: from one sound to one token for each class it may hold.

DDESeg's abstract: the content of a mixed sound is rebuilt by enriching the distinct meaning of each source. A bank of
prototypes says what each class sounds like alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PUBLISHED_STD = 0.02
"""Standard deviation of the initial weights."""


@dataclass(frozen=True, kw_only=True)
class Derived:
    """The audio tokens of a sound."""

    tokens: Tensor
    """[N, k, E], nearest class first."""
    classes: Tensor
    """[N, k], the bank's index of the class that each token was derived with."""
    distances: Tensor
    """[N, k], Euclidean distance of the sound from the mean of each of these classes."""


class DynamicDerivation(nn.Module):
    """Derives k tokens from the embedding of a second of sound, one with each of its k nearest classes.

    With the published sizes it has 3.54 M parameters.

    Args:
        embedding: channels E of the sound and of the bank.
        width: channels of the tokens. Other than E, sound and bank are first standardised by the bank (`standardised`)
            and projected; our choice for small models.
        num_classes: k, of the nearest classes.
        discriminative: also refine each token by the prototypes of its class (discriminative feature learning).
    """

    def __init__(self, *, embedding: int, width: int, num_classes: int, discriminative: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.project = None if width == embedding else nn.Linear(embedding, width)
        self.by_class = _Enrich(width=width)
        self.by_prototype = _Enrich(width=width) if discriminative else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # The published 0.02 is for its 768 channels. With 128 the tokens of a sound would start, and long stay,
                # within 0.2 % of each other, and elimination could not tell them apart.
                std = PUBLISHED_STD if self.project is None else module.in_features**-0.5
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, sound: Tensor, bank: Tensor) -> Derived:
        """sound: [N, E], bank: [classes, n, E] of at least k classes."""
        distances, classes = nearest_classes(sound, bank, self.num_classes)
        if self.project is not None:
            sound, bank = (self.project(x) for x in standardised(sound, bank))
        prototypes = bank[classes]  # [N, k, n, E]
        tokens = self.by_class(sound[:, None], prototypes.mean(2))  # [N, k, E]
        if self.by_prototype is not None:
            # Upstream sums over the n prototypes, so that the tokens grow with n. The mean does not.
            tokens = self.by_prototype(tokens[:, :, None], prototypes).mean(2)
        return Derived(tokens=tokens, classes=classes, distances=distances)


class _Enrich(nn.Module):
    """Moves a token [..., 1, E] towards each of m references [..., m, E].

    e = GELU(A (reference - token)); e = e softmax_m(B e); the result is (1 + tanh(C (token + e))) token.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.difference = nn.Linear(width, width)
        self.weight = nn.Linear(width, width, bias=False)
        self.offset = nn.Linear(width, width)

    def forward(self, token: Tensor, references: Tensor) -> Tensor:
        """token: [..., 1, E], references: [..., m, E] -> [..., m, E]; the softmax is over m, for each channel."""
        enriched = F.gelu(self.difference(references - token))
        enriched = enriched * self.weight(enriched).softmax(-2)
        return (1 + torch.tanh(self.offset(token + enriched))) * token


def standardised(sound: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Sound and bank less the bank's mean, divided by the bank's standard deviation over all channels.

    One divisor for all channels, as for the distances to the classes. A standard deviation of each channel would be 0
    where no prototype of a small bank uses a channel of the audio encoder, and any other sound that does would become
    thousands of times as large as the rest.

    Args:
        sound: [N, E].
        bank: [classes, n, E].

    Returns:
        The same shapes.
    """
    prototypes = bank.flatten(0, 1)
    mean = prototypes.mean(0)
    std = (prototypes - mean).square().mean().sqrt() + 1e-6
    return (sound - mean) / std, (bank - mean) / std


def nearest_classes(sound: Tensor, bank: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The classes whose means are nearest to each sound.

    Args:
        sound: [N, E].
        bank: [classes, n, E].
        num_classes: k, how many.

    Returns:
        Their Euclidean distances and indices, both [N, k], nearest first.
    """
    means = bank.float().mean(1)
    differences = (
        sound.float()[:, None] - means
    )  # not cdist: in bf16, and near a mean, it loses too many digits
    nearest = torch.linalg.vector_norm(differences, dim=-1).topk(num_classes, largest=False)
    return nearest.values, nearest.indices
