"""DDESeg's parts: derivation, elimination, head."""

import pytest
import torch
from torch.nn import functional as F

from sdavs_model.architectures.ddeseg.derivation import DynamicDerivation, nearest_classes, standardised
from sdavs_model.architectures.ddeseg.elimination import DynamicElimination
from sdavs_model.architectures.ddeseg.head import SegFormerHead


def bank(num_classes: int = 6, n: int = 3, embedding: int = 16) -> torch.Tensor:
    return torch.randn(num_classes, n, embedding, generator=torch.Generator().manual_seed(0))


def derivation(**changes) -> DynamicDerivation:
    torch.manual_seed(0)
    values = {"embedding": 16, "width": 16, "num_classes": 4, "discriminative": True} | changes
    return DynamicDerivation(**values)


def elimination(variant: str = "figure", **changes) -> DynamicElimination:
    torch.manual_seed(0)
    return DynamicElimination(channels=8, num_heads=2, num_centres=5, variant=variant, **changes)


def picture_and_tokens(channels: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    picture = torch.randn(2, channels, 4, 6, generator=generator)
    return picture, torch.randn(2, 3, channels, generator=generator), torch.ones(2, 3)


def test_the_nearest_classes_are_those_whose_means_are_nearest():
    prototypes = torch.tensor([[[0.0, 2.0], [0.0, 0.0]], [[5.0, 0.0], [5.0, 0.0]], [[9.0, 9.0], [9.0, 9.0]]])
    distances, classes = nearest_classes(torch.tensor([[4.0, 0.0]]), prototypes, 2)
    assert classes.tolist() == [[1, 0]]
    torch.testing.assert_close(distances, torch.tensor([[1.0, 17**0.5]]))


def test_a_token_is_derived_by_the_equations():
    derive = derivation(num_classes=1)
    sound, prototypes = torch.randn(1, 16), bank(num_classes=1)

    def enriched(part, token, reference, others):
        e = [F.gelu(part.difference(r - token)) for r in others]
        weights = torch.stack([part.weight(x) for x in e]).softmax(0)
        index = [r is reference for r in others].index(True)
        moved = e[index] * weights[index]
        return token * (1 + torch.tanh(part.offset(token + moved)))

    mean = prototypes[0].mean(0)
    first = enriched(derive.by_class, sound[0], mean, [mean])
    ones = [prototypes[0, i] for i in range(3)]
    second = torch.stack([enriched(derive.by_prototype, first, one, ones) for one in ones]).mean(0)
    torch.testing.assert_close(derive(sound, prototypes).tokens[0, 0], second)


def test_each_nearest_class_gives_its_own_token():
    derived = derivation()(torch.randn(5, 16), bank())
    assert derived.tokens.shape == (5, 4, 16)
    assert derived.classes.shape == derived.distances.shape == (5, 4)
    assert (derived.distances.diff(dim=1) >= 0).all()
    assert (derived.tokens[:, 0] - derived.tokens[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize(("embedding", "width"), [(768, 768), (1024, 128), (1024, 64)])
def test_the_tokens_of_a_new_model_differ_at_any_width(embedding, width):
    """By 1 to 20 % of their length: the same tokens get the same score, and none of them could be eliminated."""
    torch.manual_seed(0)
    derive = DynamicDerivation(embedding=embedding, width=width, num_classes=5, discriminative=True)
    means = torch.randn(20, 1, embedding)
    with torch.no_grad():
        tokens = derive(
            means[:, 0] + 0.5 * torch.randn(20, embedding), means + 0.5 * torch.randn(20, 5, embedding)
        ).tokens
    apart = (tokens - tokens.mean(1, keepdim=True)).square().sum(-1).mean() / tokens.square().sum(-1).mean()
    assert 0.01 < apart.sqrt() < 0.2


def test_the_size_of_a_token_does_not_grow_with_the_number_of_prototypes():
    sound = torch.randn(8, 16)
    few, many = (derivation()(sound, bank(n=n)).tokens.norm().item() for n in (1, 16))
    assert few / many == pytest.approx(1.0, abs=0.2)


def test_another_width_standardises_the_embeddings_first():
    derive = derivation(width=8)
    sound, prototypes = torch.randn(5, 16), bank()
    tokens = derive(sound, prototypes).tokens
    assert tokens.shape == (5, 4, 8)
    moved = derive(100 * sound + 7, 100 * prototypes + 7).tokens
    torch.testing.assert_close(tokens, moved, rtol=1e-2, atol=1e-2)


def test_a_channel_that_no_prototype_uses_does_not_dominate_a_token():
    sound, prototypes = torch.rand(5, 16), torch.rand(7, 3, 16)
    prototypes[..., :4] = 0  # as half of YAMNet's channels in the bank of the demo
    sounds, _ = standardised(sound, prototypes)
    assert sounds.abs().max() < 10
    used, _ = standardised(sound[:, 4:], prototypes[..., 4:])
    # The divisor is of all channels, a quarter of which do not vary.
    torch.testing.assert_close(sounds[:, 4:], used / 0.75**0.5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["figure", "code"])
def test_the_look_at_the_picture_is_attention_over_its_rebuilt_pixels(variant):
    eliminate = elimination(variant).eval()
    picture, tokens, _ = picture_and_tokens()
    pixels = picture.flatten(2).transpose(1, 2)
    rebuilt = (pixels @ eliminate.describe.centres.T).softmax(-1) @ eliminate.describe.centres
    query, key, value = (
        x.unflatten(-1, (2, 4)).transpose(1, 2)
        for x in (
            eliminate.sound_query(tokens),
            eliminate.picture_key(rebuilt),
            eliminate.picture_value(rebuilt),
        )
    )
    plain = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(eliminate._look(tokens, pixels), plain, rtol=1e-4, atol=1e-5)


def test_in_the_figures_recipe_tokens_survive_one_by_one():
    eliminate = elimination("figure").eval()
    picture, tokens, survival = picture_and_tokens()
    found = eliminate(picture, tokens, survival)
    assert ((found.scores > 0) & (found.scores < 1)).all()
    torch.testing.assert_close(found.survival, found.scores)
    again = eliminate(picture, tokens, found.survival)
    torch.testing.assert_close(again.survival, found.scores**2)
    # A token that did not survive is as if it were not there, and without any the picture stays as it is.
    one_gone = survival.clone()
    one_gone[:, 1] = 0
    without = eliminate(picture, tokens[:, [0, 2]], survival[:, [0, 2]])
    torch.testing.assert_close(eliminate(picture, tokens, one_gone).picture, without.picture)
    assert torch.equal(eliminate(picture, tokens, 0 * survival).picture, picture)


def test_in_the_codes_recipe_tokens_compete_and_become_one():
    eliminate = elimination("code").eval()
    picture, tokens, survival = picture_and_tokens()
    found = eliminate(picture, tokens, survival)
    torch.testing.assert_close(found.scores.sum(1), torch.ones(2))
    assert torch.equal(found.survival, survival)
    one = (found.scores[..., None] * tokens).sum(1, keepdim=True)
    alone = eliminate(picture, one, survival[:, :1])
    torch.testing.assert_close(found.picture, alone.picture)


@pytest.mark.parametrize(("variant", "score"), [("figure", 1.0), ("code", 1 / 3)])
def test_without_elimination_every_token_counts_the_same(variant, score):
    eliminate = elimination(variant, scores=False)
    picture, tokens, survival = picture_and_tokens()
    found = eliminate(picture, tokens, survival)
    torch.testing.assert_close(found.scores, torch.full((2, 3), score))
    assert torch.equal(found.survival, survival)
    assert not any("score" in name or "describe" in name for name, _ in eliminate.named_parameters())


@pytest.mark.parametrize("variant", ["figure", "code"])
def test_noise_is_added_in_training_and_never_in_evaluation(variant):
    eliminate = elimination(variant)
    inputs = picture_and_tokens()
    assert not torch.equal(eliminate(*inputs).scores, eliminate(*inputs).scores)
    eliminate.eval()
    assert torch.equal(eliminate(*inputs).picture, eliminate(*inputs).picture)


def test_the_head_is_segformers_convolution_over_the_concatenated_maps():
    torch.manual_seed(0)
    channels, sizes = (4, 6, 8), (8, 4, 2)
    head = SegFormerHead(channels=channels, width=10, num_classes=3).eval()
    maps = [torch.randn(2, c, s, s) for c, s in zip(channels, sizes, strict=True)]
    enlarged = [
        F.interpolate(p(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), size=8, mode="bilinear")
        for p, m in zip(head.project, maps, strict=True)
    ]
    weight = torch.cat([merge.weight for merge in head.merge], 1)[..., None, None]
    merged = F.conv2d(torch.cat(enlarged, 1), weight)
    norm = head.norm
    normed = F.batch_norm(merged, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)
    torch.testing.assert_close(head(maps), head.classify(F.relu(normed)), rtol=1e-4, atol=1e-5)
