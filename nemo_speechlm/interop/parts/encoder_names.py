"""Names of parameters: fairseq's (SpeechLM, HuBERT, wav2vec 2.0) and Hugging Face's, onto those of our encoder."""

import re

RENAMED = {
    "feature_extractor.conv_layers": "front_end.convs",
    "layer_norm": "feature_norm",
    "post_extract_proj": "feature_proj",
    "mask_emb": "mask_emb",
    "encoder.pos_conv.0.bias": "speech_transformer.position.conv.bias",
    "encoder.pos_conv.0.weight_g": "speech_transformer.position.conv.parametrizations.weight.original0",
    "encoder.pos_conv.0.weight_v": "speech_transformer.position.conv.parametrizations.weight.original1",
    "encoder.pos_emb.pe_k": "speech_transformer.relative_positions.table",
    "encoder.layers": "speech_transformer.layers",
    "unit_encoder.embed_positions": "shared_transformer.position.table",
    "unit_encoder.layernorm_embedding": "shared_transformer.input_norm",
    "unit_encoder.pos_emb.pe_k": "shared_transformer.relative_positions.table",
    "unit_encoder.layers": "shared_transformer.layers",
    "unit_encoder.layer_norm": "shared_transformer.output_norm",
}
_LONGEST_FIRST = sorted(RENAMED, key=len, reverse=True)


def encoder_name(key: str, pre_norm: bool, speech_layers: int | None = None) -> str | None:
    """Our encoder's name of a parameter of fairseq's.

    Args:
        key: its name in fairseq's model (``unit_encoder`` is SpeechLM's shared transformer).
        pre_norm: whether the layers normalize their input.
        speech_layers: for HuBERT and wav2vec 2.0: how many of the layers become the speech transformer.

    Returns:
        the name, or None if the parameter is not the encoder's, or one that it owns without using it.
    """
    if key.startswith("encoder.layer_norm."):
        end = "shared" if speech_layers is not None and pre_norm else "speech"
        module = "output_norm" if pre_norm else "input_norm"
        return key.replace("encoder.layer_norm", f"{end}_transformer.{module}")
    if speech_layers is not None and (found := re.match(r"encoder\.layers\.(\d+)\.", key)):
        number = int(found[1])
        if number >= speech_layers:
            key = f"unit_encoder.layers.{number - speech_layers}.{key[found.end() :]}"
    old = next((old for old in _LONGEST_FIRST if key == old or key.startswith(old + ".")), None)
    if old is None:
        return None
    key = RENAMED[old] + key[len(old) :]
    if key.startswith("front_end."):
        # convs.LAYER.0 is the convolution, .2 group norm, .2.1 layer norm: fairseq counts what lies between too.
        layer, inner, *rest = key.removeprefix("front_end.convs.").split(".")
        return ".".join(["front_end", "convs" if inner == "0" else "norms", layer, rest[-1]])
    if ".norm_k." in key:
        return key.replace(".norm_k", ".self_attn.norm_k") if pre_norm else None
    return key.replace("self_attn_layer_norm", "self_attn_norm").replace("final_layer_norm", "final_norm")
