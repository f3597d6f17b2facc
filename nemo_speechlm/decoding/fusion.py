"""NeMo's batched CTC beam search, alone or with NeMo's n-gram model of tokens (NGPU-LM), on CPU or GPU.

Axis legend: B utterances, T frames, V labels without the blank.
"""

import gzip
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from nemo.collections.asr.parts.submodules.ctc_batched_beam_decoding import BatchedBeamCTCComputer
from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel
from omegaconf import open_dict
from torch import Tensor

from nemo_speechlm.decoding.options import Decoded, DecodingOptions
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write
from nemo_speechlm.language_models.arpa import labels_beside

BATCH_FRAMES = 16000
"""Frames of a batch, padding included; with the beam and the labels they decide the memory that is needed."""


_REMEMBERED = 256 << 20
"""Bytes."""


def load_ngram(path: str | Path, labels: Sequence[str]) -> NGramGPULanguageModel:
    """Load an n-gram model of label ids, of ``train_ngram.py tokens_of=``, in the ARPA format or in NeMo's.

    Args:
        path: ``.arpa``, ``.arpa.gz`` or ``.nemo`` file.
        labels: the V labels of the model that it is used with.

    Raises:
        InputError: if it is not there, or not one of these labels. Of as many others it is known only where the file
            says what they are: NeMo's own program, and earlier versions of ours, did not write it down.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file; expected a language model made by train_ngram.py", path)
    try:
        found = _from_file(path, len(labels))
    except (AssertionError, OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"is not a language model of the {len(labels)} labels of this model ({error or 'they are others'}); "
            "make one with train_ngram.py tokens_of=",
            path,
        ) from error
    _refuse_other_labels(path, _labels_on_record(path, found), labels)
    return found


def _from_file(path: Path, vocabulary_size: int) -> NGramGPULanguageModel:
    if path.suffix != ".gz":
        return NGramGPULanguageModel.from_file(path, vocabulary_size).eval()
    with tempfile.NamedTemporaryFile(suffix=".arpa") as plain, gzip.open(path) as packed:
        while block := packed.read(1 << 20):
            plain.write(block)
        plain.flush()
        return NGramGPULanguageModel.from_file(plain.name, vocabulary_size).eval()


def save_ngram(arpa: str | Path, output: str | Path, labels: Sequence[str]) -> None:
    """Turn an ARPA file of label ids into NeMo's format, with the labels in its config."""
    model = load_ngram(arpa, labels)
    with open_dict(model.cfg):
        model.cfg.labels = list(labels)
    model.save_to(str(output))


def put_labels_beside(arpa: str | Path, labels: Sequence[str]) -> None:
    """Say beside an ARPA file of label ids, as ``<name>.labels``, what the labels are: in it there is no place."""
    with atomic_write(labels_beside(arpa)) as file:
        json.dump(list(labels), file, ensure_ascii=False)
        file.write("\n")


def _labels_on_record(path: Path, model: NGramGPULanguageModel) -> list[str] | None:
    """The labels that a language model was made of, where that is written down."""
    if (own := model.cfg.get("labels")) is not None:
        return list(own)
    beside = labels_beside(path)
    if not beside.is_file():
        return None
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"not JSON ({error}); expected the list of labels of {path.name}", beside) from error
    return [str(label) for label in found]


def _refuse_other_labels(path: Path, known: Sequence[str] | None, labels: Sequence[str]) -> None:
    if known is None or list(known) == list(labels):
        return
    number = next((i for i, (a, b) in enumerate(zip(known, labels, strict=False)) if a != b), None)
    differs = (
        f"{len(known)} there, {len(labels)} in this model"
        if number is None
        else f"number {number} is {known[number]!r} there, {labels[number]!r} in this model"
    )
    raise InputError(
        f"is a language model of other labels: {differs}; make one with train_ngram.py tokens_of=",
        path,
    )


class RememberedNGram:
    """An n-gram model of NeMo's that computes what follows a state once, not in each frame and hypothesis anew.

    Following backoffs takes most of the time of a search on a CPU, and hypotheses come to the same states again and
    again. The numbers are the model's own. When the memory is full, all of it is forgotten.

    Args:
        lm: the model, on a CPU.
        max_rows: states that are remembered; None: as many as fit into 256 MiB.
    """

    def __init__(self, lm: NGramGPULanguageModel, max_rows: int | None = None):
        self._lm = lm
        self._max_rows = max(1, _REMEMBERED // (12 * lm.vocab_size)) if max_rows is None else max_rows
        self._row_of = torch.full((lm.num_states,), -1, dtype=torch.int64)
        self._scores = torch.empty(0, lm.vocab_size)
        self._next = torch.empty(0, lm.vocab_size, dtype=torch.int64)
        self._rows = 0

    def to(self, device: torch.device) -> "RememberedNGram":
        """Itself: it stays where it is."""
        return self

    def get_init_states(self, batch_size: int, bos: bool = True) -> Tensor:
        """The model's."""
        return self._lm.get_init_states(batch_size, bos)

    def get_final(self, states: Tensor) -> Tensor:
        """The model's."""
        return self._lm.get_final(states)

    def advance(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States (N,) -> scores of each label (N, V), and the states after it (N, V)."""
        rows = self._row_of[states]
        if (rows < 0).any():
            new = states[rows < 0].unique()
            if self._rows + len(new) > self._max_rows:
                self._row_of.fill_(-1)
                self._rows, new = 0, states.unique()
                if len(new) > self._max_rows:
                    return self._lm.advance(states)
            self._remember(new)
            rows = self._row_of[states]
        return self._scores[rows], self._next[rows]

    def _remember(self, states: Tensor) -> None:
        first, self._rows = self._rows, self._rows + len(states)
        if self._rows > len(self._scores):
            more = min(max(2 * len(self._scores), self._rows, 1024), self._max_rows) - len(self._scores)
            self._scores = torch.cat((self._scores, self._scores.new_empty(more, self._scores.shape[1])))
            self._next = torch.cat((self._next, self._next.new_empty(more, self._next.shape[1])))
        self._scores[first : self._rows], self._next[first : self._rows] = self._lm.advance(states)
        self._row_of[states] = torch.arange(first, self._rows)


class FusionDecoder:
    """Beam search over labels.

    Args:
        vocabulary_size: V.
        lm: n-gram model of the labels, or None.
        device: where to search.
    """

    def __init__(
        self, vocabulary_size: int, lm: NGramGPULanguageModel | None = None, device: torch.device | str | None = None
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.lm = None if lm is None else lm.to(self.device)
        if self.lm is not None and self.device.type == "cpu":
            self.lm = RememberedNGram(self.lm)
        self.vocabulary_size = vocabulary_size

    @torch.inference_mode()
    def decode(
        self, log_probs: Sequence[np.ndarray], options: DecodingOptions, progress: Callable[[int], object]
    ) -> list[Decoded]:
        """See :class:`~nemo_speechlm.decoding.options.Decoder`."""
        search = BatchedBeamCTCComputer(
            blank_index=self.vocabulary_size,
            beam_size=options.beam_size,
            fusion_models=None if self.lm is None else [self.lm],
            fusion_models_alpha=None if self.lm is None else [options.lm_weight],
            beam_beta=options.word_score,
            beam_threshold=options.beam_threshold,
            allow_cuda_graphs=self.device.type == "cuda",
        )
        decoded: list[Decoded] = [Decoded([], 0.0)] * len(log_probs)
        for batch in _batches([len(frames) for frames in log_probs]):
            lengths = torch.tensor([len(log_probs[i]) for i in batch])
            x_BTV = torch.full((len(batch), int(lengths.max()), self.vocabulary_size + 1), -torch.inf)
            x_BTV[:, :, -1] = 0.0  # NeMo goes on searching in padding; blanks leave hypotheses as they are
            for row, i in enumerate(batch):
                x_BTV[row, : len(log_probs[i])] = torch.from_numpy(log_probs[i])
            found = search(x_BTV.to(self.device), lengths.to(self.device)).to_hyps_list(score_norm=False)
            for i, hypothesis in zip(batch, found, strict=False):
                decoded[i] = Decoded([int(t) for t in hypothesis.y_sequence], float(hypothesis.score))
            progress(len(batch))
        progress(sum(not len(frames) for frames in log_probs))
        return decoded


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the utterances that have frames, longest first, as many in a batch as ``BATCH_FRAMES`` allows."""
    batches: list[list[int]] = []
    for index in sorted((i for i, length in enumerate(lengths) if length), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= BATCH_FRAMES:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
