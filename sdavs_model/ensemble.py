"""An ensemble of models of one config: the mean of their probabilities, as of nnU-Net's folds."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdavs_model.architectures.base import SegmentationModel
from sdavs_model.encoders.features import Features


class Ensemble(SegmentationModel):
    """The mean of the members' probabilities, as logits.

    Costs as much time and memory as its members together. For prediction only: each is trained by itself.

    Args:
        members: at least one, all of one config but for their weights.

    Raises:
        ValueError: members of different configs, or members that report heard classes, which cannot be averaged.
    """

    def __init__(self, members: Sequence[SegmentationModel]) -> None:
        nn.Module.__init__(self)  # encoders are the members'
        self.config = members[0].config
        if any(member.config.without_weights() != self.config.without_weights() for member in members):
            raise ValueError("members: have different configs; allowed: models that differ in their weights")
        if self.config.heard_classes:
            raise ValueError(
                f"members: {self.config.architecture} reports what it hears; allowed: models without such classes"
            )
        self.members = nn.ModuleList(members)

    def forward(
        self,
        frames: Tensor | None = None,
        log_mel: Tensor | None = None,
        present: Tensor | None = None,
        *,
        features: Features | None = None,
    ) -> Tensor:
        """See `SegmentationModel.forward`; takes no features, since every member has encoders of its own."""
        assert features is None
        total: Tensor | None = None
        for member in self.members:  # one at a time, so that only one's activations are kept
            logits = member(frames, log_mel, present).float()  # [B, T, K, H, W]
            odds = logits.sigmoid() if logits.shape[2] == 1 else logits.softmax(2)
            total = odds if total is None else total + odds
        assert total is not None
        mean = total / len(self.members)
        logits = torch.logit(mean, eps=1e-6) if mean.shape[2] == 1 else mean.clamp(min=1e-6).log()
        return logits if present is None else logits * present[..., None, None, None]

    def forward_features(self, features: Features) -> Tensor:
        """Not for an ensemble."""
        raise NotImplementedError("an ensemble has no encoders of its own")

    def parts(self) -> dict[str, Sequence[nn.Module]]:
        """See `SegmentationModel.parts`."""
        return {f"member {number}": (member,) for number, member in enumerate(self.members)}
