"""w2v-BERT, the task of SLAM and MAESTRO on speech (arXiv 2108.06209, section 3; SLAM, section 3.2).

Axis legend: B utterances, T frames, N frames of all utterances, D width of the encoder, V codes, K width of a code.
"""

from collections.abc import Sequence

import torch
from nemo.utils import logging
from torch import Tensor, nn

from nemo_speechlm.checks import check_flag, check_number, check_whole
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.losses import UnitPrediction, contrastive_prediction, unit_prediction
from nemo_speechlm.models.common.multitask.figures import Figure, figures_of
from nemo_speechlm.modules.draws import Draws, RowSeeds, draw_distractors
from nemo_speechlm.modules.encoder import Frames, SpeechLMEncoder
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.quantizer import GumbelQuantizer

COLLAPSED = 0.01
"""A codebook whose perplexity is below this share of its codes (or below 2) has collapsed."""


class CodebookWatch:
    """Warns when the codebook collapses, and tells when it is in use again; once each time."""

    def __init__(self) -> None:
        self._has_collapsed = False

    def look(self, perplexity: float, used: int, number: int, where: str, step: int) -> None:
        """Look at the codes that were used.

        Args:
            perplexity: of the codes.
            used: how many of them.
            number: that there are.
            where: in which data.
            step: of the training.
        """
        collapsed = perplexity < max(2.0, COLLAPSED * number)
        if collapsed and not self._has_collapsed:
            logging.warning(
                f"step {step}: the codebook has collapsed: {used} of its {number} codes are used "
                f"in the {where} (perplexity {perplexity:.1f}), so the losses on speech mean little. Raise "
                "model.loss.diversity, lower model.optim.lr, or let model.w2v_bert.gumbel_temperature fall more slowly"
            )
        elif self._has_collapsed and not collapsed:
            logging.info(f"step {step}: the codebook is in use again ({used} codes)")
        self._has_collapsed = collapsed


class W2vBert(nn.Module):
    """Contrastive loss after the speech encoder, masked prediction of codes after the shared encoder.

    Targets of both come from a quantizer of the unmasked features, which learns by the contrastive loss and by its
    diversity loss.

    Args:
        d_model: D.
        num_codes: V.
        code_dim: K.
        distractors: frames of the same utterance that the true one is told from.
        temperature: of the contrastive loss.
        gumbel_temperature: of the quantizer: its start, its end, the factor of each update.
        leave_out_same: leave out distractors with the code of the true frame.

    Raises:
        SpeechLMError: naming an option that is none.
    """

    def __init__(
        self,
        d_model: int,
        num_codes: int = 1024,
        code_dim: int = 1024,
        distractors: int = 100,
        temperature: float = 0.1,
        gumbel_temperature: Sequence[float] = (2.0, 0.1, 0.999995),
        leave_out_same: bool = False,
    ):
        super().__init__()
        for name, number in {"num_codes": num_codes, "code_dim": code_dim, "distractors": distractors}.items():
            check_whole(f"model.w2v_bert.{name}", number, 1)
        check_flag("model.w2v_bert.leave_out_same", leave_out_same)
        check_number("model.w2v_bert.temperature", temperature, above=0)
        check_gumbel_temperature(gumbel_temperature)
        self.distractors = distractors
        self.temperature = temperature
        self.leave_out_same = leave_out_same
        self.quantizer = GumbelQuantizer(d_model, num_codes, code_dim, gumbel_temperature)
        self.context = nn.Linear(d_model, code_dim)
        self.codes = nn.Linear(d_model, num_codes)

    def forward(
        self, encoder: SpeechLMEncoder, frames: Frames, mask: Tensor, generator: Draws = None
    ) -> tuple[dict[str, Figure], Tensor]:
        """The terms of the loss of a batch.

        Args:
            encoder: encodes the masked frames.
            frames: of the front end, unmasked.
            mask: (B, T) bool, frames to mask; none in padding.
            generator: what Gumbel noise and distractors are drawn with; noise, which training alone has, needs one of
                PyTorch's.

        Returns:
            ``contrastive``, ``masked_codes``, ``diversity`` and two accuracies; and how often each code is the
            likeliest one (V,).
        """
        padding = padding_mask(frames.lengths, frames.states.shape[1])
        quantized = self.quantizer.quantize(
            frames.states[~padding], None if isinstance(generator, RowSeeds) else generator
        )
        masked_N = mask[~padding]
        speech, _ = encoder.encode_speech(encoder.apply_mask(frames.states, mask, padding), padding)
        shared, _ = encoder.encode_shared(speech, padding)
        contrast = contrastive_prediction(
            self.context(speech[mask]),
            quantized.vectors[masked_N],
            quantized.drawn[masked_N],
            draw_distractors(mask.nonzero()[:, 0], self.distractors, generator),
            self.temperature,
            self.leave_out_same,
        )
        number = masked_N.sum()
        figures = {
            "contrastive": Figure(contrast.loss, number),
            # A frame with nothing to be told from counts as wrong: with one code for all, it is 0.
            "contrastive_accuracy": Figure(contrast.correct, number),
            "diversity": Figure(quantized.diversity * len(masked_N), (~padding).sum()),
            **figures_of(
                "masked_codes", "masked_code_accuracy", self.code_prediction(shared[mask], quantized.codes[masked_N])
            ),
        }
        return figures, quantized.counts

    @torch.no_grad()
    def codes_of(self, states_ND: Tensor) -> Tensor:
        """The likeliest code (N,) of unmasked features (N, D)."""
        return self.quantizer.weight_proj(states_ND).argmax(-1)

    def code_prediction(self, states_ND: Tensor, codes_N: Tensor) -> UnitPrediction:
        """How well states of the shared encoder (N, D) tell the codes (N,)."""
        return prediction(self.codes(states_ND), codes_N)


def check_gumbel_temperature(values: Sequence[float]) -> None:
    """Check that the temperature of the quantizer falls from its start to its end.

    Raises:
        SpeechLMError: if it does not.
    """
    key = "model.w2v_bert.gumbel_temperature"
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or len(values) != 3:
        shown = list(values) if is_list else values
        raise SpeechLMError(f"{key} is {shown!r}, expected its start, its end and the factor of each update")
    check_number(f"{key}[0]", values[0], above=0)
    check_number(f"{key}[1]", values[1], most=values[0], above=0)
    check_number(f"{key}[2]", values[2], most=1, above=0)


def prediction(logits_NV: Tensor, targets_N: Tensor) -> UnitPrediction:
    """Score predictions of N things, all of which count."""
    everywhere = torch.ones_like(targets_N, dtype=torch.bool)
    return unit_prediction(logits_NV.unsqueeze(0), targets_N.unsqueeze(0), everywhere.unsqueeze(0))
