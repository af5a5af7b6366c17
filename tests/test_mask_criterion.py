"""Mask2Former's criterion image by image: against vectors worked out elsewhere and transformers."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from bikd_ray.tasks.map_output import MapOutput, QueryLogits
from bikd_ray.tasks.mask_criterion import (
    Criterion,
    RandomPoints,
    image_classes,
    image_queries,
    mask_loss,
    matched,
    matched_terms,
    matching_cost,
    share_of,
    total,
)

FILE = Path(__file__).parent / "data" / "segmentation-vectors.json"
ONE = json.loads(FILE.read_text())["mask2former_loss_of_one_image"]
LABELS = torch.tensor(ONE["labels"])
FEW = Criterion(points=40)
POINTS = dict(zip(ONE["matched_masks"], ONE["points_for_loss"], strict=True))  # pair by pair there


@dataclass(frozen=True)
class Given:
    """Points worked out beforehand, for one output."""

    match: torch.Tensor
    at: torch.Tensor

    def matching(self, outputs, like):
        return self.match.expand(outputs, -1, -1)

    def loss(self, logits_XM1hw):
        return self.at.expand(len(logits_XM1hw), -1, -1, -1)


def f64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exact(actual, expected):
    assert_close(actual.detach(), f64(expected), rtol=1e-12, atol=1e-12)


def leaf(values) -> torch.Tensor:
    return f64([values]).requires_grad_()


def grad(z: torch.Tensor) -> torch.Tensor:
    assert z.grad is not None
    return z.grad


def made(seed=0, batch=3, outputs=2, dtype=torch.float64) -> tuple[MapOutput, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)

    def logits(*shape):
        return (3 * torch.randn(*shape, generator=draw)).to(dtype).requires_grad_()

    queries = tuple(
        QueryLogits(logits(batch, 6, 5), logits(batch, 6, 7, 9)) for _ in range(outputs)
    )
    labels = torch.randint(0, 4, (batch, 3, 4), generator=draw)
    labels = labels.repeat_interleave(5, 1).repeat_interleave(5, 2)
    labels[:, :4] = 255
    return MapOutput(queries=queries), labels


def seeded(images, criterion=FEW):
    return [RandomPoints.seeded(n, "cpu", criterion) for n in images]


def test_one_image_equals_the_vectors_term_by_term():
    classes, masks = leaf(ONE["class_logits"]), leaf(ONE["mask_logits"])
    output = MapOutput(queries=(QueryLogits(classes, masks),))
    given = Given(f64(ONE["points_for_matching"]), f64([POINTS[0], POINTS[1]]))
    how, present = Criterion(), image_classes(LABELS)
    assert present.tolist() == ONE["classes_present"]
    image = image_queries(output.queries)
    cost = matching_cost(image, present, LABELS, given.match[None], how)
    exact(cost[0], ONE["cost"])
    query = matched(cost)
    assert dict(enumerate(query[0].tolist())) == dict(
        zip(ONE["matched_masks"], ONE["matched_queries"], strict=True)
    )
    terms = matched_terms(image, present, LABELS, query, given, how)
    exact(terms.class_O[0], ONE["loss_class"])
    exact(terms.mask_O[0], ONE["loss_bce"])
    exact(terms.dice_O[0], ONE["loss_dice"])
    exact(total(terms, how), ONE["loss"])
    loss = mask_loss(output, LABELS[None], [given])
    exact(loss[0], ONE["loss"])
    loss.sum().backward()
    exact(grad(classes)[0], ONE["grad_class_logits"])
    exact(grad(masks)[0], ONE["grad_mask_logits"])


def test_the_outputs_of_a_model_add_up():
    classes, masks = leaf(ONE["class_logits"]), leaf(ONE["mask_logits"])
    given = Given(f64(ONE["points_for_matching"]), f64([POINTS[0], POINTS[1]]))
    three = MapOutput(queries=(QueryLogits(classes, masks),) * 3)
    exact(mask_loss(three, LABELS[None], [given])[0], 3 * ONE["loss"])


def test_a_share_is_the_mask_sampled_bilinearly():
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (6, 5), generator=draw)
    points = torch.rand(50, 2, generator=draw, dtype=torch.float64)
    points[:2] = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    for label in range(3):
        mask = (labels == label).double()[None, None]
        grid = 2 * points[None, :, None] - 1
        plain = F.grid_sample(mask, grid, align_corners=False)[0, 0, :, 0]
        assert_close(share_of(labels, points, torch.tensor(label)), plain)


def test_images_of_a_batch_have_the_loss_and_gradient_that_they_have_alone():
    output, labels = made()
    whole = mask_loss(output, labels, seeded(range(3)), FEW)
    whole.sum().backward()
    parts, part_labels = made()
    for n in (2, 0, 1):
        one = slice(n, n + 1)
        alone = mask_loss(parts[one], part_labels[one], seeded([n]), FEW)
        assert_close(alone[0], whole[n])
        alone.sum().backward()
    for a, b in zip(output.tensors(), parts.tensors(), strict=True):
        assert_close(grad(a), grad(b))


def test_equal_seeds_give_equal_losses_and_other_seeds_do_not():
    output, labels = made(dtype=torch.float32)
    first = mask_loss(output, labels, seeded([7, 8, 9]), FEW)
    assert torch.equal(first, mask_loss(output, labels, seeded([7, 8, 9]), FEW))
    assert (first != mask_loss(output, labels, seeded([17, 18, 19]), FEW)).all()


def test_models_with_one_seed_draw_the_same_candidates_for_a_mask():
    """Whichever queries were matched: only the choice of unsure points may differ."""
    how = replace(FEW, uncertain=0.0)
    logits = torch.randn(1, 3, 1, 7, 9)
    first, second = (RandomPoints.seeded(4, "cpu", how).loss(x) for x in (logits, logits.flip(1)))
    assert torch.equal(first, second)


def test_the_points_of_the_loss_lie_where_the_mask_is_unsure():
    ramp = torch.linspace(-8, 8, 64).expand(1, 1, 1, 8, 64)
    points = RandomPoints.seeded(0, "cpu", Criterion(points=400)).loss(ramp)
    near = ((points[..., 0] - 0.5).abs() < 0.2).float().mean()
    assert near > 0.7  # 0.4 of points that are drawn uniformly


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", [0, 1, 2, 3])
def test_logits_that_are_no_numbers_are_matched_to_nothing(bad, field):
    output, labels = made()
    with torch.no_grad():
        output.tensors()[field][1, 0, 0] = bad
    assert output.finite_B().tolist() == [True, False, True]
    loss = mask_loss(output, labels, seeded(range(3)), FEW)
    assert loss.isnan().tolist() == [False, True, False]


def test_an_image_without_masks_has_a_finite_loss_and_gradient():
    output, labels = made()
    labels[1] = 255
    loss = mask_loss(output, labels, seeded(range(3)), FEW)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert all(grad(z).isfinite().all() for z in output.tensors())
    assert all((grad(q.mask_logits_BQhw)[1] == 0).all() for q in output.queries)
    plain = sum(
        F.cross_entropy(q.class_logits_BQC1[1], torch.full((6,), 4)) for q in output.queries
    )
    assert_close(loss[1], 2 * plain)


def test_fewer_queries_than_masks_leave_masks_without_one():
    output, labels = made(outputs=1)
    two = QueryLogits(*(t[:, :2] for t in output.tensors()))
    labels[0, 10:, :4] = torch.arange(4).repeat_interleave(5)[:5, None]
    loss = mask_loss(MapOutput(queries=(two,)), labels, seeded(range(3)), FEW)
    assert loss.isfinite().all()
    image = image_queries([two[0:1]])
    classes = image_classes(labels[0])
    cost = matching_cost(image, classes, labels[0], torch.rand(1, 9, 2, dtype=torch.float64), FEW)
    assert (matched(cost) >= 0).sum() == 2 < len(classes)


def test_half_precision_is_raised():
    output, labels = made(dtype=torch.bfloat16)
    wide = MapOutput(
        queries=tuple(
            QueryLogits(q.class_logits_BQC1.float(), q.mask_logits_BQhw.float())
            for q in output.queries
        )
    )
    loss = mask_loss(output, labels, seeded(range(3)), FEW)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, mask_loss(wide, labels, seeded(range(3)), FEW))


def test_the_loss_is_in_full_precision_under_autocast():
    output, labels = made(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mask_loss(output, labels, seeded(range(3)), FEW)
    assert torch.equal(found, mask_loss(output, labels, seeded(range(3)), FEW))


def test_transformers_criterion_on_slices_gives_the_same():
    """With the same random stream: its own draws come in the order of ours, output by output."""
    transformers = pytest.importorskip("transformers")
    modeling = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    config = transformers.Mask2FormerConfig(num_labels=4, train_num_points=40)
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    theirs = modeling.Mask2FormerLoss(config, weights)
    output, labels = made(dtype=torch.float32)
    queries = []
    for query in output.queries:  # query m is matched to mask m: one order of masks for both
        near = F.interpolate(query.mask_logits_BQhw.detach(), size=labels.shape[1:]) - 20
        for n in range(3):
            for m, label in enumerate(image_classes(labels[n])):
                near[n, m] += 40 * (labels[n] == label)
        queries.append(QueryLogits(query.class_logits_BQC1.detach(), near))
    for n in range(3):
        classes = image_classes(labels[n])
        masks = (labels[n] == classes[:, None, None]).float()
        torch.manual_seed(n)
        own = RandomPoints.seeded(n, "cpu", FEW)
        for query in queries:
            found = theirs(
                query.mask_logits_BQhw[n : n + 1],
                query.class_logits_BQC1[n : n + 1],
                [masks],
                [classes],
            )
            expected = sum(weights[name] * value for name, value in found.items())
            one = MapOutput(queries=(query[n : n + 1],))
            assert_close(mask_loss(one, labels[n : n + 1], [own], FEW)[0], expected)
