"""What a network answers to a few made images, in eval and in training mode: what would stop its
training is refused before a job has it, and what a person may not know is noted.

Axes: B images, C classes.
"""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bikd_ray.data.views import Normalise
from bikd_ray.errors import UserError
from bikd_ray.plan import ResolvedInput
from bikd_ray.tasks.plausible import Diagnosis, diagnose
from bikd_ray.zoo.adapters import logits_of, tensors_of
from bikd_ray.zoo.checkpoints import reason

PROBE_VERSION = 1
"""Raised when networks that passed before are to be looked at again."""

IMAGES = ("a black image", "a white image", "noise", "a gradient")
FLAT = 2
"""The first so many images are of one colour; some networks divide by an image's deviation."""

CHANNELS = (1, 2, 4, 6)
"""Tried where a network does not take three."""

UNCHANGED = ("View", "ReshapeAlias", "UnsafeView", "Squeeze", "Unsqueeze", "ToCopy", "Clone",
             "Alias", "Select", "Slice", "T", "Transpose", "Permute")  # fmt: skip
"""Autograd's names of operations that leave numbers as they are."""


def probe(name: str, network: nn.Module, how: ResolvedInput) -> tuple[int, list[str]]:
    """(number of classes, what a person may not know) of a network in eval mode on the CPU.

    Leaves the network and the random state as they were. Raises UserError where it cannot take
    such images, does not answer [B, C], or cannot be trained.
    """
    modes = {module: module.training for module in network.modules()}
    images = _images(how)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network.eval()
            logits = _answer(name, network, images)
            notes = _looked_at(name, network, images, logits)
            notes += _trainable(name, network)
            network.train()
            notes += _trained(name, network, images[FLAT:], logits.shape[1])
    finally:
        for module, training in modes.items():
            module.training = training
    return logits.shape[1], notes


def examined(name: str, network: nn.Module, how: ResolvedInput) -> list[str]:
    """What a person may not know of a network of any task, in eval mode on the CPU: it is run on
    two samples of noise, whatever it answers.

    Leaves the network and the random state as they were. Raises UserError where it cannot take
    such samples, answers what is not finite, or cannot be trained.
    """
    modes = {module: module.training for module in network.modules()}
    samples = _noise(how, 2)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _run(name, network.eval(), {}, samples, "eval", grad=False)
            notes = _trainable(name, network)
            buffers = {key: b.clone() for key, b in network.named_buffers()}
            found = _run(name, network.train(), buffers, samples, "training", grad=True)
            if not any(tensor.requires_grad for tensor in found):
                raise UserError(
                    f"zoo: {name} cannot be trained: its answers carry no gradient (a forward "
                    "under torch.no_grad or inference_mode, or a detach()?)"
                )
    finally:
        for module, training in modes.items():
            module.training = training
    return notes


def trains_alone(name: str, network: nn.Module, how: ResolvedInput) -> None:
    """Raises UserError for a network that one sample alone cannot train: batch normalisation has
    no variance after a pooling to one cell.
    """
    alone = copy.deepcopy(network).train()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            alone(_noise(how, 1))
    except Exception as error:
        raise UserError(
            f"zoo: {name} cannot be trained on one sample alone ({reason(error)}), which is what "
            "recipe.batch_size or resources.micro_batch leave of a batch; raise them, or set "
            "recipe.freeze_batchnorm: true"
        ) from None


def _noise(how: ResolvedInput, count: int) -> Tensor:
    """Samples as a network gets them, always the same."""
    drawn = torch.rand(count, *how.view.shape, generator=torch.Generator().manual_seed(0))
    return Normalise(how, torch.device("cpu"))((255 * drawn).to(torch.uint8))


def _run(
    name: str,
    network: nn.Module,
    buffers: dict[str, Tensor],
    samples: Tensor,
    mode: str,
    *,
    grad: bool,
) -> list[Tensor]:
    """The numbers in what a network answers."""
    try:
        with torch.set_grad_enabled(grad):
            output = functional_call(network, buffers, (samples.clone(),))
    except Exception as error:  # it is the person's code that runs here
        shape = " x ".join(map(str, samples.shape[1:]))
        raise UserError(
            f"zoo: {name} cannot take samples of {shape} in {mode} mode ({reason(error)}); set "
            "input: or kwargs that fit"
        ) from None
    found = [tensor for tensor in tensors_of(output) if tensor.is_floating_point()]
    if not found:
        raise UserError(f"zoo: {name} returns a {type(output).__name__} without numbers")
    if not all(tensor.isfinite().all() for tensor in found):
        raise UserError(f"zoo: {name} answers NaN or infinite numbers{_cause(network)}")
    return found


def _images(how: ResolvedInput) -> Tensor:
    """IMAGES as the network gets them, float32 [4, 3, size, size]."""
    size = how.size
    noise = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(0, 1, size)
    gradient = torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size), noise[0]])
    flat = [torch.full((3, size, size), colour) for colour in (0.0, 1.0)]
    pixels = torch.stack([*flat, noise, gradient])
    return Normalise(how, torch.device("cpu"))((255 * pixels).to(torch.uint8))


def _answer(name: str, network: nn.Module, images: Tensor) -> Tensor:
    """[B, C] in eval mode. Raises UserError."""
    # what a network keeps from inference mode could never be trained with
    try:
        with torch.no_grad():
            logits = _logits(network, images, name)
    except UserError:
        raise
    except Exception as error:  # it is the person's code that runs here
        raise UserError(_no_answer(name, network, images, error)) from None
    if logits.ndim != 2 or len(logits) != len(images):
        raise UserError(
            f"zoo: {name} answers {list(logits.shape[1:])} logits for an image; it must "
            "answer one number for each class"
        )
    return logits


def _logits(network: nn.Module, images: Tensor, name: str) -> Tensor:
    """What a network answers; some write to the images that they are given."""
    return logits_of(network(images.clone()), name)


def _no_answer(name: str, network: nn.Module, images: Tensor, error: Exception) -> str:
    size = images.shape[-1]
    for channels in CHANNELS:
        try:
            with torch.no_grad():
                network(torch.zeros(len(images), channels, size, size))
        except Exception:  # the first error is the one to tell
            continue
        takes = f"{channels} channel{'s' * (channels > 1)}"
        return (
            f"zoo: {name} takes images of {takes}; only RGB (3 channels) is supported: build it "
            "with 3 (timm: kwargs {in_chans: 3}), or give a factory that converts RGB for it"
        )
    return (
        f"zoo: {name} cannot take images of {size} x {size} ({reason(error)}); set "
        "input: {size: …} or kwargs that fit"
    )


def _looked_at(name: str, network: nn.Module, images: Tensor, logits: Tensor) -> list[str]:
    """What eval mode shows. Raises UserError for what is no logits."""
    if getattr(network, "num_classes", None) == 0 and hasattr(network, "forward_head"):
        raise UserError(
            f"zoo: {name} was built without a classifier (num_classes 0) and answers its "
            f"{logits.shape[1]} features; give kwargs: {{num_classes: …}} and weights with a head"
        )
    found = diagnose(logits)
    if set(range(FLAT, len(images))) <= set(found.not_finite):
        raise UserError(f"zoo: {name} answers NaN or infinite logits{_cause(network)}")
    alone = _one(name, network, images[FLAT : FLAT + 1])
    ending = _ending(alone)
    _refuse_probabilities(name, found, ending)
    notes = []
    if found.not_finite:
        first = IMAGES[found.not_finite[0]]
        notes.append(
            f"answers NaN or infinite logits for {first}: one such image in the data ends a "
            "training; correct it (a division by the deviation of an image of one colour?)"
        )
    if found.constant:
        notes.append(
            "answers the same logits for every image: they do not depend on the input (a "
            "classifier that starts at zero, or one that was cut off from its body?)"
        )
    if found.bounded and _stays_bounded(name, network, images):
        notes.append(
            "answers numbers within 0–1 whatever the image, as a sigmoid does: no logits, and a "
            "softmax of them is never sure"
        )
    return notes + _alone(name, network, images, logits, alone.detach())


def _one(name: str, network: nn.Module, image: Tensor) -> Tensor:
    """What the network answers one image alone, with what autograd knows of it."""
    try:
        with torch.enable_grad():
            return _logits(network, image, name)
    except Exception as error:
        raise UserError(
            f"zoo: {name} cannot answer one image alone ({reason(error)}), only several; correct it"
        ) from None


def _refuse_probabilities(
    name: str, found: Diagnosis, ending: str | None, mode: str = "eval"
) -> None:
    if found.probabilities or ending == "Softmax":
        layer = "softmax"
    elif ending == "Sigmoid":
        layer = "sigmoid"
    else:
        return
    raise UserError(
        f"zoo: {name} ends in a {layer}: it answers probabilities, not logits (in {mode} mode); "
        "the loss has its own softmax, so remove that layer"
    )


def _stays_bounded(name: str, network: nn.Module, images: Tensor) -> bool:
    """Whether the answers lie within 0–1 even for images of absurd contrast, of either sign."""
    with torch.no_grad():
        far = [logits_of(network(images * factor), name) for factor in (1e4, -1e4)]
    return all(f.ndim == 2 and not _outside(f) for f in far)


def _outside(logits: Tensor) -> bool:
    found = diagnose(logits)
    return not (found.bounded or found.probabilities or found.constant)


def _ending(logits: Tensor) -> str | None:
    """Autograd's name of the last operation that makes numbers, such as Sigmoid."""
    node = logits.grad_fn
    while node is not None:
        kind = node.name().rstrip("0123456789").removesuffix("Backward")
        if kind not in UNCHANGED:
            return kind
        node = node.next_functions[0][0]
    return None


def _alone(
    name: str, network: nn.Module, images: Tensor, logits: Tensor, alone: Tensor
) -> list[str]:
    """Whether an image's answer depends on the images beside it, or on chance, in eval mode."""
    here = logits[FLAT : FLAT + 1]
    if alone.shape != here.shape:
        return [
            f"answers {list(alone.shape)} for one image alone instead of {list(here.shape)} "
            "(a squeeze() that names no dimension?): a batch of one image fails"
        ]
    if _alike(alone, here):
        return []
    with torch.no_grad():
        again = _logits(network, images, name)
    if not _alike(again, logits):
        return [
            "answers the same images differently from one time to the next in eval mode (a "
            "dropout that is always on?): no measurement of it can be repeated"
        ]
    return [
        "answers an image differently depending on the images beside it in eval mode (batch "
        "statistics, or an order?): what is measured depends on the size of the batches"
    ]


def _alike(a: Tensor, b: Tensor) -> bool:
    scale = float(b[b.isfinite()].abs().max()) if b.isfinite().any() else 1.0
    return torch.allclose(a, b, rtol=0, atol=1e-3 * scale, equal_nan=True)


def _trainable(name: str, network: nn.Module) -> list[str]:
    """Raises UserError where nothing can be trained."""
    every = list(network.parameters())
    total = sum(p.numel() for p in every)
    frozen = sum(p.numel() for p in every if not p.requires_grad)
    if frozen == total:
        raise UserError(
            f"zoo: {name} has no trainable parameter; set requires_grad of those that are to be "
            "trained"
        )
    if not frozen:
        return []
    share = 100 * frozen / total
    return [f"{share:.3g}% of its parameters do not require gradients and stay as they are"]


def _trained(name: str, network: nn.Module, images: Tensor, classes: int) -> list[str]:
    """What training mode shows. Raises UserError where no gradient would come of it."""
    buffers = {key: b.clone() for key, b in network.named_buffers()}  # batch norm writes to them
    try:
        with torch.enable_grad():
            logits = logits_of(functional_call(network, buffers, (images.clone(),)), name)
    except UserError as error:
        raise UserError(f"{error} (in training mode)") from None
    except Exception as error:
        raise UserError(
            f"zoo: {name} cannot be trained as it is ({type(error).__name__} in training "
            f"mode: {reason(error)}); correct it or its kwargs"
        ) from error
    if logits.shape != (len(images), classes):
        raise UserError(
            f"zoo: {name} answers {list(logits.shape)} in training mode and "
            f"{[len(images), classes]} in eval mode; it must answer logits in both"
        )
    if not logits.requires_grad:
        raise UserError(
            f"zoo: {name} cannot be trained: its logits carry no gradient (a forward under "
            "torch.no_grad or inference_mode, or a detach()?)"
        )
    found = diagnose(logits)
    if len(found.not_finite) == len(images):
        raise UserError(f"zoo: {name} answers NaN or infinite logits in training mode")
    _refuse_probabilities(name, found, _ending(logits), "training")
    reached = _reached(logits)
    if reached is None:
        return []
    wanted = {id(p): p.numel() for p in network.parameters() if p.requires_grad}
    missed = sum(count for key, count in wanted.items() if key not in reached)
    if not missed:
        return []
    share = 100 * missed / sum(wanted.values())
    return [
        f"no gradient of the logits reaches {share:.3g}% of its trainable parameters (unused in "
        "training mode, or computed under no_grad): they stay as they are"
    ]


def _reached(logits: Tensor) -> set[int] | None:
    """The ids of the parameters that the logits' gradient reaches; None where an operation of
    somebody's own may hide some.
    """
    seen, found, left = set(), set(), [logits.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("Backward"):  # torch's own end in a digit
            return None
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(id(leaf))
        left += [before for before, _ in node.next_functions]
    return found


def _cause(network: nn.Module) -> str:
    """The tensor to blame, and what to do."""
    for key, tensor in network.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.isnan().any():
            return f": its tensor {key} holds NaN; give weights that are whole"
    return "; give weights that are whole, and the input they were trained with"
