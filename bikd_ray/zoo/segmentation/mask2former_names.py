"""The tensors of Mask2Former as detectron2 names them, under the names that transformers has.

Both are the same network. transformers keeps query, key and value of most attentions apart, which
detectron2 has in one tensor; everything else is renamed alone.
"""

import re
from collections.abc import Mapping

from torch import Tensor

PIXELS = "model.pixel_level_module"
SWIN, RESNET = f"{PIXELS}.encoder.swin", f"{PIXELS}.encoder"
DECODER, QUERIES = f"{PIXELS}.decoder", "model.transformer_module"
LAYER = rf"{QUERIES}.decoder.layers.\1"

LEFT_OUT = re.compile(
    r"criterion\..*|pixel_mean|pixel_std|backbone\..*\.relative_position_index"
    r"|backbone\..*\.num_batches_tracked"
)
"""What is built from the config, or of use in detectron2 alone."""

OLD = (
    (r"^sem_seg_head\.(?!predictor\.|pixel_decoder\.)", "sem_seg_head.pixel_decoder."),
    (r"\.static_query\.", ".query_feat."),
)
"""Names in files of before its second version."""

BLOCK = rf"{SWIN}.encoder.layers.\1.blocks.\2"
BOTTLENECK = rf"{RESNET}.encoder.stages.\1.layers.\2"
ENCODER = rf"{DECODER}.encoder.layers.\1"
RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Swin
        (
            r"backbone\.patch_embed\.proj\.(.+)",
            rf"{SWIN}.embeddings.patch_embeddings.projection.\1",
        ),
        (r"backbone\.patch_embed\.norm\.(.+)", rf"{SWIN}.embeddings.norm.\1"),
        (r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.norm1\.(.+)", rf"{BLOCK}.layernorm_before.\3"),
        (r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.norm2\.(.+)", rf"{BLOCK}.layernorm_after.\3"),
        (
            r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.attn\.qkv\.(.+)",
            rf"{BLOCK}.attention.{{qkv}}_proj.\3",
        ),
        (
            r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.attn\.proj\.(.+)",
            rf"{BLOCK}.attention.o_proj.\3",
        ),
        (
            r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.attn\.(relative_position_bias_table)",
            rf"{BLOCK}.attention.relative_position_bias.\3",
        ),
        (r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.(mlp\..+)", rf"{BLOCK}.\3"),
        (r"backbone\.layers\.(\d+)\.(downsample\..+)", rf"{SWIN}.encoder.layers.\1.\2"),
        (r"backbone\.norm(\d+)\.(.+)", rf"{RESNET}.hidden_states_norms.stage{{\1+1}}.\2"),
        # ResNet
        (r"backbone\.stem\.conv1\.weight", f"{RESNET}.embedder.embedder.convolution.weight"),
        (r"backbone\.stem\.conv1\.norm\.(.+)", rf"{RESNET}.embedder.embedder.normalization.\1"),
        (
            r"backbone\.res(\d+)\.(\d+)\.shortcut\.norm\.(.+)",
            BOTTLENECK.replace(r"\1", r"{\1-2}") + r".shortcut.normalization.\3",
        ),
        (
            r"backbone\.res(\d+)\.(\d+)\.shortcut\.weight",
            BOTTLENECK.replace(r"\1", r"{\1-2}") + ".shortcut.convolution.weight",
        ),
        (
            r"backbone\.res(\d+)\.(\d+)\.conv(\d+)\.norm\.(.+)",
            BOTTLENECK.replace(r"\1", r"{\1-2}") + r".layer.{\3-1}.normalization.\4",
        ),
        (
            r"backbone\.res(\d+)\.(\d+)\.conv(\d+)\.weight",
            BOTTLENECK.replace(r"\1", r"{\1-2}") + r".layer.{\3-1}.convolution.weight",
        ),
        # pixel decoder
        (r"sem_seg_head\.pixel_decoder\.input_proj\.(.+)", rf"{DECODER}.input_projections.\1"),
        (r"sem_seg_head\.pixel_decoder\.transformer\.level_embed", f"{DECODER}.level_embed"),
        (
            r"sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.(self_attn\..+)",
            rf"{ENCODER}.\2",
        ),
        (
            r"sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.linear(\d)\.(.+)",
            rf"{ENCODER}.fc\2.\3",
        ),
        (
            r"sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.norm1\.(.+)",
            rf"{ENCODER}.self_attn_layer_norm.\2",
        ),
        (
            r"sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.norm2\.(.+)",
            rf"{ENCODER}.final_layer_norm.\2",
        ),
        (r"sem_seg_head\.pixel_decoder\.mask_features\.(.+)", rf"{DECODER}.mask_projection.\1"),
        (
            r"sem_seg_head\.pixel_decoder\.(adapter|layer)_(\d+)\.weight",
            rf"{DECODER}.\1_\2.0.weight",
        ),
        (
            r"sem_seg_head\.pixel_decoder\.(adapter|layer)_(\d+)\.norm\.(.+)",
            rf"{DECODER}.\1_\2.1.\3",
        ),
        # transformer decoder
        (r"sem_seg_head\.predictor\.query_feat\.weight", f"{QUERIES}.queries_features.weight"),
        (r"sem_seg_head\.predictor\.query_embed\.weight", f"{QUERIES}.queries_embedder.weight"),
        (r"sem_seg_head\.predictor\.level_embed\.weight", f"{QUERIES}.level_embed.weight"),
        (r"sem_seg_head\.predictor\.input_proj\.(.+)", rf"{QUERIES}.input_projections.\1"),
        (
            r"sem_seg_head\.predictor\.transformer_self_attention_layers\.(\d+)"
            r"\.self_attn\.in_proj_(weight|bias)",
            rf"{LAYER}.self_attn.{{qkv}}_proj.\2",
        ),
        (
            r"sem_seg_head\.predictor\.transformer_self_attention_layers\.(\d+)"
            r"\.self_attn\.(out_proj\..+)",
            rf"{LAYER}.self_attn.\2",
        ),
        (
            r"sem_seg_head\.predictor\.transformer_self_attention_layers\.(\d+)\.norm\.(.+)",
            rf"{LAYER}.self_attn_layer_norm.\2",
        ),
        (
            r"sem_seg_head\.predictor\.transformer_cross_attention_layers\.(\d+)"
            r"\.multihead_attn\.(.+)",
            rf"{LAYER}.cross_attn.\2",
        ),
        (
            r"sem_seg_head\.predictor\.transformer_cross_attention_layers\.(\d+)\.norm\.(.+)",
            rf"{LAYER}.cross_attn_layer_norm.\2",
        ),
        (
            r"sem_seg_head\.predictor\.transformer_ffn_layers\.(\d+)\.linear(\d)\.(.+)",
            rf"{LAYER}.fc\2.\3",
        ),
        (
            r"sem_seg_head\.predictor\.transformer_ffn_layers\.(\d+)\.norm\.(.+)",
            rf"{LAYER}.final_layer_norm.\2",
        ),
        (r"sem_seg_head\.predictor\.decoder_norm\.(.+)", rf"{QUERIES}.decoder.layernorm.\1"),
        (
            r"sem_seg_head\.predictor\.mask_embed\.layers\.(\d+)\.(.+)",
            rf"{QUERIES}.decoder.mask_predictor.mask_embedder.\1.0.\2",
        ),
        (r"sem_seg_head\.predictor\.class_embed\.(.+)", r"class_predictor.\1"),
    )
)
"""{qkv} stands for three names, {a+b} for a sum."""

THREE = "{qkv}"


def upgraded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of detectron2's newer files, without those of no use here."""
    found = {}
    for name, tensor in state.items():
        for pattern, replacement in OLD:
            name = re.sub(pattern, replacement, name)
        if not LEFT_OUT.fullmatch(name):
            found[name] = tensor
    return found


def renamed(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """(the tensors of `upgraded` under transformers' names, the names that no rule knows)."""
    found: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        new = new_name(name)
        if new is None:
            unknown.append(name)
        elif THREE in new:
            thirds = zip("qkv", tensor.chunk(3), strict=True)
            found |= {new.replace(THREE, part): third for part, third in thirds}
        else:
            found[new] = tensor
    return found, unknown


def new_name(name: str) -> str | None:
    """What transformers calls a tensor, with THREE where it has three of it; None if unknown."""
    for pattern, replacement in RULES:
        if match := pattern.fullmatch(name):
            return re.sub(r"\{(\d+)([+-]\d+)\}", _sum, match.expand(replacement))
    return None


def _sum(match: re.Match[str]) -> str:
    return str(int(match[1]) + int(match[2]))
