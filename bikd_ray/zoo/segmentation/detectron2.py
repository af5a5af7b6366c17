"""Mask2Former's released files (detectron2's .pkl and .pth) as networks of transformers.

The architecture is read off the tensors' shapes, so any size with a Swin or a ResNet of
bottlenecks will do. Nothing is written: the network is filled in memory.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bikd_ray.errors import UserError
from bikd_ray.zoo.checkpoints import read_checkpoint
from bikd_ray.zoo.fitting import states_in
from bikd_ray.zoo.frozen_norm import freeze_batchnorm
from bikd_ray.zoo.segmentation.huggingface import (
    MASK2FORMER,
    NON_COMMERCIAL,
    from_config,
    transformers,
)
from bikd_ray.zoo.segmentation.mask2former_names import renamed, upgraded
from bikd_ray.zoo.segmentation.segmenter import Segmenter

NOT_IN_FILES = re.compile(
    r"criterion\.empty_weight"  # made from the config
    r"|.*\.swin\.layernorm\.(weight|bias)"  # of no use: each stage has a norm of its own
    r"|.*\.num_batches_tracked"  # frozen norms do not count
)
LEVELS_AND_POINTS = 3 * 4
"""Of the pixel decoder's deformable attention, for each head."""


def load_mask2former(path: str, name: str) -> Segmenter:
    """The network of a detectron2 checkpoint, in float32 and eval mode, its batch norm frozen.

    path: a .pkl of NumPy arrays or a .pth, local or at an address. Its licence is that of the
    released weights. Raises UserError, in one line.
    """
    states = [
        s.tensors for s in states_in(read_checkpoint(path, name)) if is_mask2former(s.tensors)
    ]
    if not states:
        raise UserError(
            f"zoo: {name}: {path} holds no Mask2Former of detectron2 (no tensors "
            "sem_seg_head.predictor.…); give its model_final file, or the model by its hub name"
        )
    network = converted(states[0], path)
    frozen = freeze_batchnorm(network)
    said = f"{path}: converted from detectron2's names"
    notes = (f"{said}; its {frozen} batch norms are frozen, as there" if frozen else said,)
    config: Any = network.config
    return Segmenter(network, licence=NON_COMMERCIAL, config=config.to_dict(), notes=notes)


def is_mask2former(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("sem_seg_head.predictor.") for name in state)


def converted(state: Mapping[str, Tensor], path: str) -> nn.Module:
    """Transformers' network with the tensors of a detectron2 state, each used once.

    Raises UserError where one is missing, left over or of another shape.
    """
    transformers(path)
    state = upgraded(state)
    tensors, unknown = renamed(state)
    try:
        network = from_config(config_of(state), path)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"zoo: {path} is no whole Mask2Former ({error}); copy it again") from None
    own = network.state_dict()
    unknown += [key for key in tensors if key not in own]
    missing = [key for key in own if key not in tensors and not NOT_IN_FILES.fullmatch(key)]
    shaped = [k for k, v in tensors.items() if k in own and v.shape != own[k].shape]
    if problems := [
        f"{len(keys)} tensors {what}, first {keys[0]}"
        for what, keys in (("missing", missing), ("unknown", unknown), ("misshapen", shaped))
        if keys
    ]:
        raise UserError(
            f"zoo: {path} does not fit transformers' Mask2Former ({'; '.join(problems)}); only "
            "those with a Swin or ResNet backbone are converted"
        )
    network.load_state_dict({**own, **tensors})
    return network.eval()


def config_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Transformers' config of the network that an upgraded state is of, as plain values."""
    shape = {name: tuple(tensor.shape) for name, tensor in state.items()}
    head, pixels = "sem_seg_head.predictor", "sem_seg_head.pixel_decoder"
    queries, hidden = shape[f"{head}.query_feat.weight"]
    ffn, encoder = f"{head}.transformer_ffn_layers", f"{pixels}.transformer.encoder.layers"
    offsets = shape[f"{encoder}.0.self_attn.sampling_offsets.bias"][0]
    classes = shape[f"{head}.class_embed.bias"][0] - 1
    feature = shape[f"{pixels}.mask_features.weight"]
    return {
        "model_type": MASK2FORMER,
        "backbone_config": _swin(shape) if "backbone.norm0.weight" in shape else _resnet(shape),
        "num_labels": classes,
        "num_queries": queries,
        "hidden_dim": hidden,
        "feature_size": feature[1],
        "mask_feature_size": feature[0],
        "num_attention_heads": offsets // (2 * LEVELS_AND_POINTS),
        "encoder_layers": _count(shape, encoder),
        "encoder_feedforward_dim": shape[f"{encoder}.0.linear1.bias"][0],
        "decoder_layers": _count(shape, ffn) + 1,  # it builds one fewer
        "dim_feedforward": shape[f"{ffn}.0.linear1.bias"][0],
    }


STAGES = ["stage1", "stage2", "stage3", "stage4"]
DROP_PATH = 0.3
"""Of the released models' training."""


def _swin(shape: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    stages = [f"backbone.layers.{i}.blocks" for i in range(4)]
    tables = [shape[f"{stage}.0.attn.relative_position_bias_table"] for stage in stages]
    embed, _, patch, _ = shape["backbone.patch_embed.proj.weight"]
    return {
        "model_type": "swin",
        "embed_dim": embed,
        "patch_size": patch,
        "depths": [_count(shape, stage) for stage in stages],
        "num_heads": [heads for _, heads in tables],
        "window_size": (round(tables[0][0] ** 0.5) + 1) // 2,
        "mlp_ratio": shape[f"{stages[0]}.0.mlp.fc1.bias"][0] / embed,
        "drop_path_rate": DROP_PATH,
        "out_features": STAGES,
    }


def _resnet(shape: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    stages = [f"backbone.res{i}" for i in range(2, 6)]
    return {
        "model_type": "resnet",
        "embedding_size": shape["backbone.stem.conv1.weight"][0],
        "hidden_sizes": [shape[f"{stage}.0.conv3.weight"][0] for stage in stages],
        "depths": [_count(shape, stage) for stage in stages],
        "layer_type": "bottleneck",
        "out_features": STAGES,
    }


def _count(shape: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """How many numbered modules there are below a name."""
    return len({name[len(prefix) + 1 :].partition(".")[0] for name in shape
                if name.startswith(f"{prefix}.")})  # fmt: skip
