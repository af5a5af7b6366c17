"""Names and shapes of the tensors in detectron2's Mask2Former files, written out by themselves."""

SWIN = {
    "T": {"dim": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7},
    "S": {"dim": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "window": 7},
    "B": {"dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "window": 12},
    "tiny": {"dim": 8, "depths": (2, 1, 1, 1), "heads": (1, 2, 4, 8), "window": 3},
}
R50 = {"stem": 64, "widths": (64, 128, 256, 512), "depths": (3, 4, 6, 3)}
TINY_RESNET = {"stem": 8, "widths": (4, 8, 8, 16), "depths": (1, 2, 1, 1)}
FULL = {"hidden": 256, "queries": 100, "layers": 9, "encoder": 6, "wide": (1024, 2048),
        "classes": 150, "heads": 8}  # fmt: skip
TINY = {"hidden": 32, "queries": 7, "layers": 2, "encoder": 1, "wide": (24, 40), "classes": 5,
        "heads": 4}  # fmt: skip
PARAMETERS = {"R50": 44.0, "T": 47.4, "S": 68.7, "B": 106.9}
"""In millions, as published for these models (R50 44M, T 47M, S 69M, B 107M)."""


Shapes = dict[str, tuple[int, ...]]


def linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def attention(name: str, size: int) -> Shapes:
    return {
        f"{name}.in_proj_weight": (3 * size, size),
        f"{name}.in_proj_bias": (3 * size,),
        **linear(f"{name}.out_proj", size, size),
    }


def swin_shapes(dim, depths, heads, window) -> tuple[Shapes, list[int]]:
    shapes: Shapes = {"backbone.patch_embed.proj.weight": (dim, 3, 4, 4)}
    shapes |= {"backbone.patch_embed.proj.bias": (dim,), **norm("backbone.patch_embed.norm", dim)}
    for i, (depth, head) in enumerate(zip(depths, heads, strict=True)):
        wide = dim * 2**i
        for j in range(depth):
            block = f"backbone.layers.{i}.blocks.{j}"
            shapes |= {**norm(f"{block}.norm1", wide), **norm(f"{block}.norm2", wide)}
            shapes |= linear(f"{block}.attn.qkv", 3 * wide, wide)
            shapes |= linear(f"{block}.attn.proj", wide, wide)
            shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, head)
            shapes[f"{block}.attn.relative_position_index"] = (window**2, window**2)
            shapes |= linear(f"{block}.mlp.fc1", 4 * wide, wide)
            shapes |= linear(f"{block}.mlp.fc2", wide, 4 * wide)
        if i < 3:
            shapes[f"backbone.layers.{i}.downsample.reduction.weight"] = (2 * wide, 4 * wide)
            shapes |= norm(f"backbone.layers.{i}.downsample.norm", 4 * wide)
        shapes |= norm(f"backbone.norm{i}", wide)
    return shapes, [dim * 2**i for i in range(4)]


def convolution(name: str, out: int, into: int, kernel: int) -> Shapes:
    frozen: Shapes = {f"{name}.norm.{part}": (out,) for part in ("running_mean", "running_var")}
    return {f"{name}.weight": (out, into, kernel, kernel), **norm(f"{name}.norm", out), **frozen}


def resnet_shapes(stem, widths, depths) -> tuple[Shapes, list[int]]:
    shapes, into = convolution("backbone.stem.conv1", stem, 3, 7), stem
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for j in range(depth):
            block = f"backbone.res{i + 2}.{j}"
            if not j:
                shapes |= convolution(f"{block}.shortcut", 4 * width, into, 1)
            shapes |= convolution(f"{block}.conv1", width, into, 1)
            shapes |= convolution(f"{block}.conv2", width, width, 3)
            shapes |= convolution(f"{block}.conv3", 4 * width, width, 1)
            into = 4 * width
    return shapes, [4 * width for width in widths]


def head_shapes(channels, hidden, queries, layers, encoder, wide, classes, heads) -> Shapes:
    shapes: Shapes = {}
    pixels = "sem_seg_head.pixel_decoder"
    for i, size in enumerate(channels[:0:-1]):
        shapes[f"{pixels}.input_proj.{i}.0.weight"] = (hidden, size, 1, 1)
        shapes |= {f"{pixels}.input_proj.{i}.0.bias": (hidden,)}
        shapes |= norm(f"{pixels}.input_proj.{i}.1", hidden)
    shapes[f"{pixels}.transformer.level_embed"] = (3, hidden)
    for i in range(encoder):
        layer = f"{pixels}.transformer.encoder.layers.{i}"
        shapes |= linear(f"{layer}.self_attn.sampling_offsets", heads * 24, hidden)
        shapes |= linear(f"{layer}.self_attn.attention_weights", heads * 12, hidden)
        shapes |= linear(f"{layer}.self_attn.value_proj", hidden, hidden)
        shapes |= linear(f"{layer}.self_attn.output_proj", hidden, hidden)
        shapes |= {**norm(f"{layer}.norm1", hidden), **norm(f"{layer}.norm2", hidden)}
        shapes |= linear(f"{layer}.linear1", wide[0], hidden)
        shapes |= linear(f"{layer}.linear2", hidden, wide[0])
    shapes[f"{pixels}.mask_features.weight"] = (hidden, hidden, 1, 1)
    shapes[f"{pixels}.mask_features.bias"] = (hidden,)
    shapes[f"{pixels}.adapter_1.weight"] = (hidden, channels[0], 1, 1)
    shapes[f"{pixels}.layer_1.weight"] = (hidden, hidden, 3, 3)
    shapes |= norm(f"{pixels}.adapter_1.norm", hidden) | norm(f"{pixels}.layer_1.norm", hidden)
    head = "sem_seg_head.predictor"
    shapes |= {f"{head}.{name}.weight": (queries, hidden) for name in ("query_feat", "query_embed")}
    shapes[f"{head}.level_embed.weight"] = (3, hidden)
    for i in range(layers):
        own = f"{head}.transformer_self_attention_layers.{i}"
        cross = f"{head}.transformer_cross_attention_layers.{i}"
        ffn = f"{head}.transformer_ffn_layers.{i}"
        shapes |= {**attention(f"{own}.self_attn", hidden), **norm(f"{own}.norm", hidden)}
        shapes |= {**attention(f"{cross}.multihead_attn", hidden), **norm(f"{cross}.norm", hidden)}
        shapes |= {**linear(f"{ffn}.linear1", wide[1], hidden), **norm(f"{ffn}.norm", hidden)}
        shapes |= linear(f"{ffn}.linear2", hidden, wide[1])
    shapes |= norm(f"{head}.decoder_norm", hidden)
    for i in range(3):
        shapes |= linear(f"{head}.mask_embed.layers.{i}", hidden, hidden)
    shapes |= linear(f"{head}.class_embed", classes + 1, hidden)
    return shapes | {"criterion.empty_weight": (classes + 1,)}


def published(size: str) -> Shapes:
    """The names and shapes of one model's file."""
    resnets = {"R50": R50, "R50, tiny head": R50, "tiny resnet": TINY_RESNET}
    backbone, channels = (
        resnet_shapes(**resnets[size]) if size in resnets else swin_shapes(**SWIN[size])
    )
    return backbone | head_shapes(channels, **(TINY if "tiny" in size else FULL))
