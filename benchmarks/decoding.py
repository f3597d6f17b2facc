r"""How fast recognition decodes, in hours of speech an hour: greedy CTC, n-gram fusion, lexicon beam, attention beam.

    python benchmarks/decoding.py --text $DATA/novels.txt.gz [--rounds 5] [--threads 2] [--only lexicon]

Ours beside NeMo's own decoding and flashlight's own search, in turns in one process, on the same numbers: log
probabilities at 50 frames a second, drawn so that they spell held-out sentences of the text with some errors, and
for the attention decoders drawn encoder states. The language models are made of the other sentences. ``of_peer`` is
the time by the peer's; ``same`` is the share of utterances for which the same came out. NeMo's attention search keeps
to other rules than ours. The encoder is not in these figures; benchmarks/features.py has it. Appends to decoding.csv.
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import alternate, report
from flashlight.lib.text.decoder import CriterionType, LexiconDecoder, LexiconDecoderOptions, SmearingMode, Trie
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import create_word_dict
from nemo.collections.asr.modules.transformer.transformer_generators import BeamSearchSequenceGenerator
from nemo.collections.asr.parts.submodules.ctc_decoding import CTCDecoding
from omegaconf import OmegaConf

from nemo_speechlm.decoding.attention_search import EOS, SearchSettings, beam_search
from nemo_speechlm.decoding.decoders import make_decoder
from nemo_speechlm.decoding.options import DecodingOptions
from nemo_speechlm.decoding.tokens import as_lm_tokens
from nemo_speechlm.files import iter_lines
from nemo_speechlm.inference.ctc_text import CTCText
from nemo_speechlm.language_models.builders import NGramOptions, make_arpa
from nemo_speechlm.modules import NemoDecoder, RelativeDecoder
from nemo_speechlm.modules.decoder.relative import PAD

LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
FRAME_RATE = 50
PACKAGES = ("torch", "nemo_toolkit", "flashlight-text", "numpy")
WORK = "greedy", "ngram", "lexicon", "attention"


class Case(NamedTuple):
    """What is decoded, and by whom: ours, and peers by name. Each gives a list with something for each utterance."""

    name: str
    hours: float
    ways: dict[str, Callable[[], Sequence[Any]]]
    peer: str


def sentences(path: str, count: int) -> list[str]:
    """Sentences in our labels, of 40 to 200 characters."""
    found = ("".join(c for c in " ".join(line.lower().split()) if c in LABELS) for _, line in iter_lines(path))
    return list(islice((" ".join(each.split()) for each in found if 40 <= len(each) <= 200), count))


def spoken(sentence: str, rng: np.random.Generator) -> np.ndarray:
    """Log probabilities (T, V + 1) of a sentence: three frames a character on the average, two of them blank."""
    frames: list[int] = []
    for character in sentence:
        frames += [LABELS.index(character)] * int(rng.integers(1, 3)) + [len(LABELS)] * int(rng.integers(1, 3))
    logits = 1.5 * rng.standard_normal((len(frames), len(LABELS) + 1))
    logits[np.arange(len(frames)), frames] += 6.0
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


class CTCCases:
    """The rows of CTC.

    Args:
        text: whose first sentences are decoded, and of whose others the language models are made.
        utterances: how many to decode.
        lines: how many to learn from.
        folder: for the language models.
    """

    def __init__(self, text: str, utterances: int, lines: int, folder: Path):
        every = sentences(text, utterances + lines)
        if len(every) < 2 * utterances:
            raise SystemExit(f"{text}: {len(every)} sentences of 40 to 200 letters, too few")
        rng = np.random.default_rng(0)
        self.x = [spoken(sentence, rng) for sentence in every[:utterances]]
        self.learned, self.folder = every[utterances:], folder
        self.hours = sum(map(len, self.x)) / FRAME_RATE / 3600
        self.padded = torch.zeros(len(self.x), max(map(len, self.x)), len(LABELS) + 1)
        for row, x in zip(self.padded, self.x, strict=True):
            row[: len(x)] = torch.from_numpy(x)
        self.lengths = torch.tensor([len(x) for x in self.x])

    def ours(self, options: DecodingOptions) -> Callable[[], list[str]]:
        """Our decoding, to texts."""
        made = CTCText(make_decoder(options, LABELS, lambda word: [LABELS.index(c) for c in word]), LABELS)
        return lambda: [made.text(found) for found in made.decode(self.x, options, quiet=True)]

    def nemo(self, **settings: Any) -> Callable[[], list[str]]:
        """NeMo's decoding, to texts, of the same in one batch."""
        decoding = CTCDecoding(OmegaConf.create(settings), vocabulary=LABELS)

        def run() -> list[str]:
            found = decoding.ctc_decoder_predictions_tensor(self.padded, self.lengths)
            return [" ".join(h.text.split()) for h in found]

        return run

    def greedy(self) -> Case:
        """The best label of each frame."""
        ways = {"ours": self.ours(DecodingOptions("greedy")), "NeMo greedy_batch": self.nemo(strategy="greedy_batch")}
        return Case("CTC greedy", self.hours, ways, "NeMo greedy_batch")

    def ngram(self) -> Case:
        """Beam of labels with a 6-gram of them."""
        path = self.folder / "labels.arpa"
        tokens = (as_lm_tokens([LABELS.index(c) for c in sentence]) for sentence in self.learned)
        make_arpa(tokens, path, NGramOptions(6, builder="own"))
        options = DecodingOptions("ngram", str(path), beam_size=16, lm_weight=0.5, word_score=0.5)
        beam = {"beam_size": 16, "ngram_lm_model": str(path), "ngram_lm_alpha": 0.5, "beam_beta": 0.5}
        beam |= {"return_best_hypothesis": True, "allow_cuda_graphs": False, "beam_alpha": None, "kenlm_path": None}
        theirs = self.nemo(strategy="beam_batch", beam=beam)
        return Case("CTC 6-gram of labels", self.hours, {"ours": self.ours(options), "NeMo": theirs}, "NeMo")

    def lexicon(self) -> Case:
        """Words of a trigram."""
        path = self.folder / "words.arpa"
        make_arpa((sentence.split() for sentence in self.learned), path, NGramOptions(3, builder="own"))
        words = sorted({word for sentence in self.learned for word in sentence.split()})
        options = DecodingOptions("lexicon", str(path), beam_size=50, lm_weight=1.5, word_score=1.0)
        end = np.full((1, len(LABELS) + 1), -1e4, dtype=np.float32)
        end[0, 0] = 0.0
        closed = [np.concatenate([x, end]) for x in self.x]  # the last word ends with a space, too

        ways = {"ours": self.ours(options), "flashlight": flashlight(path, words, options, closed)}
        return Case(f"CTC lexicon of {len(words)} words", self.hours, ways, "flashlight")


def flashlight(path: Path, words: list[str], options: DecodingOptions, x: list[np.ndarray]) -> Callable[[], list[str]]:
    """The search as flashlight's own documentation sets it up."""
    index = create_word_dict({**{word: [] for word in words}, "<unk>": []})
    lm, blank = KenLM(str(path), index), len(LABELS)
    trie, start = Trie(blank + 1, 0), lm.start(False)
    for word in words:
        number = index.get_index(word)
        trie.insert([*(LABELS.index(c) for c in word), 0], number, lm.score(start, number)[1])
    trie.smear(SmearingMode.MAX)
    settings = LexiconDecoderOptions(
        beam_size=options.beam_size, beam_size_token=blank + 1, beam_threshold=options.beam_threshold,
        lm_weight=options.lm_weight, word_score=options.word_score, unk_score=-math.inf, sil_score=0.0, log_add=False,
        criterion_type=CriterionType.CTC,
    )  # fmt: skip
    search = LexiconDecoder(settings, trie, lm, 0, blank, index.get_index("<unk>"), [], False)

    def run() -> list[str]:
        best = (search.decode(each.ctypes.data, *each.shape)[0] for each in x)
        return [" ".join(index.get_entry(word) for word in found.words if word >= 0) for found in best]

    return run


def attention(utterances: int = 4, seconds: float = 10.0, tokens: int = 20) -> Case:
    """A beam of attention decoders of 6 layers of 256: so many of 1,000 tokens, for nothing ends before."""
    torch.manual_seed(0)
    size = {"vocab_size": 1000, "n_layers": 6, "d_model": 256, "n_heads": 4, "d_ff": 1024}
    encoded = torch.randn(utterances, round(seconds * FRAME_RATE), 256)
    lengths = torch.full((utterances,), encoded.shape[1])
    settings = SearchSettings(beam_size=5, max_length=tokens - 1)
    nemo, relative = NemoDecoder(**size).eval(), RelativeDecoder(**size).eval()
    for decoder in (nemo, relative):
        _never_ends(decoder)
    generator = BeamSearchSequenceGenerator(
        nemo.decoder.embedding, nemo.decoder.decoder, nemo.classifier, beam_size=5, len_pen=1.0,
        bos=EOS, pad=PAD, eos=EOS, max_sequence_length=tokens, max_delta_length=tokens - 1,
    )  # fmt: skip

    def ours(decoder: Any) -> Callable[[], list[list[int]]]:
        return lambda: [found[0].tokens.tolist() for found in beam_search(decoder, encoded, lengths, settings)]

    def theirs() -> list[list[int]]:
        with torch.inference_mode():
            found = generator(encoder_hidden_states=encoded, encoder_input_mask=torch.ones(encoded.shape[:2]))
        return [row[1:].tolist() for row in found]

    ways = {"ours": ours(nemo), "ours, relative positions": ours(relative), "NeMo": theirs}
    return Case("attention, beam 5", utterances * seconds / 3600, ways, "NeMo")


def _never_ends(decoder: torch.nn.Module) -> None:
    """Make the end of a sentence unlikely, so that all searches take the same number of steps."""
    for module in decoder.modules():
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == 1000:
            with torch.no_grad():
                module.weight[EOS] = 0.0


def _key(found: Any) -> Any:
    """What is compared; NeMo writes no space before an apostrophe."""
    return found.replace(" '", "'") if isinstance(found, str) else found


def measure(case: Case, rounds: int) -> list[dict[str, Any]]:
    """A row for each way."""
    found = {name: run() for name, run in case.ways.items()}
    timings = alternate(case.ways, rounds=rounds, warmup=0)
    return [
        {
            "what": case.name,
            "way": name,
            "hours_per_hour": case.hours * 3600 / timing.median,
            **timing.row(),
            "of_peer": timing.median / timings[case.peer].median,
            "same": float(np.mean([_key(a) == _key(b) for a, b in zip(found[name], found["ours"], strict=True)])),
        }
        for name, timing in timings.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="plain text, a sentence a line; .gz is unpacked")
    parser.add_argument("--utterances", type=int, default=32)
    parser.add_argument("--lines", type=int, default=20_000, help="sentences that the language models learn from")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help=f"one of {', '.join(WORK)}")
    parser.add_argument("--dry", action="store_true", help="print the rows, but do not add them to the CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        made = CTCCases(arguments.text, arguments.utterances, arguments.lines, Path(folder))
        for name in WORK:
            if arguments.only in ("", name):
                rows += measure(attention() if name == "attention" else getattr(made, name)(), arguments.rounds)
    if arguments.dry:
        for row in rows:
            print(row)
    else:
        report("decoding", rows, PACKAGES)


if __name__ == "__main__":
    main()
