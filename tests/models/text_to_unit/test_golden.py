"""The converted text-to-unit model without the released padding."""

from dataclasses import replace

import torch

from nemo_speechlm.models import TextToUnitModel
from tests.golden import converted, dictionary_options, load, needs_golden, relative_error


@needs_golden
@torch.no_grad()
def test_without_the_released_padding_a_batch_does_not_matter(tmp_path):
    golden = load("fasttext2unit_tiny/outputs.pt")
    options = replace(dictionary_options("fasttext2unit_tiny", tmp_path), released_padding=False)
    exact, _ = converted("fasttext2unit_tiny/checkpoint.pt", options)
    assert isinstance(exact, TextToUnitModel)
    phones, lengths = golden["src_tokens"], golden["src_lengths"]
    output = exact(phones, lengths)
    for row, length in enumerate(lengths.tolist()):
        single = golden[f"single{row}_free_unit_logits"]
        assert int(output.lengths[row]) == single.shape[1]
        assert relative_error(output.logits[row : row + 1, : single.shape[1]], single) < 1e-5
        theirs = golden[f"single{row}_log_dur"]
        assert relative_error(output.log_durations[row : row + 1, :length], theirs[:, :length]) < 1e-5
