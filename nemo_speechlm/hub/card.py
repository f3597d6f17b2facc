"""The card of a model, from what its ``.nemo`` file and its run say: data, units, recipe, figures, how to use it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import yaml
from nemo.core.classes import ModelPT
from omegaconf import OmegaConf

from nemo_speechlm import __version__
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import FILE_KEYS
from nemo_speechlm.hub.records import leaves
from nemo_speechlm.units.inventory import UnitInventory

_RECIPE = ("model.optim.name", "model.optim.lr", "model.optim.sched.name", "trainer.max_steps", "trainer.precision")
"""What of a run's record is worth a line of the table; all the rest is in the config below it."""

_FILES = "manifest={kind}.json output={kind}_units.json units=units.json"
_OTHERS = {
    "SLAMTextClassifier": (
        "text-classification",
        "",
        'tokens = model.tokens_of(["a sentence"])\n'
        "logits = model(torch.tensor([tokens]), torch.tensor([len(tokens)]))",
    ),
    "FrameClassifierModel": (
        "feature-extraction",
        f"tokenize_speech speech_tokenizer=frame_classifier {_FILES.format(kind='speech')}",
        "units = model.decode(waveform, length)  # (B, T) and (B,)",
    ),
    "TextToUnitModel": (
        "feature-extraction",
        f"tokenize_text text_tokenizer=text_to_unit {_FILES.format(kind='text')}",
        "spoken = model.generate(phones)  # for each sentence, a list of ids of model.phones",
    ),
}
"""Models that neither recognize nor have features of speech: their task, command and method."""


@dataclass(frozen=True)
class Card:
    """What a card says.

    Args:
        model_class: name of the class.
        parameters: how many numbers were learned.
        config: of the model.
        inventories: of units, by attribute of the model.
        licence: as the hub abbreviates them (``apache-2.0``, ``cc-by-4.0``, ...).
        language: codes of what is spoken or written; found in the inventories if there are none.
        data: what it was trained on, in the author's words; the manifests' names stand beside it.
        run: the record of its training (``run.json``), where there is one.
        results: summaries of evaluations.
    """

    model_class: str
    parameters: int
    config: Mapping[str, Any]
    inventories: Mapping[str, UnitInventory]
    licence: str
    language: Sequence[str] = ()
    data: str | None = None
    run: Mapping[str, Any] | None = None
    results: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @classmethod
    def of(cls, model: ModelPT, licence: str, **said: Any) -> "Card":
        """The card of a model; ``said`` are the fields that it cannot know.

        Raises:
            InputError: if there is no licence.
        """
        if not licence:
            raise InputError(
                "licence is empty; expected one as the hub abbreviates them: apache-2.0, cc-by-4.0, other, ..."
            )
        config = OmegaConf.to_container(model.cfg, resolve=True)
        assert isinstance(config, dict)
        inventories: dict[str, UnitInventory] = {}
        for key, value in vars(model).items():
            if isinstance(value, UnitInventory) and value not in inventories.values():  # one with two names, once
                inventories[key] = value
        return cls(
            type(model).__name__,
            sum(parameter.numel() for parameter in model.parameters()),
            without_folders(config),
            inventories,
            licence,
            **said,
        )

    @property
    def languages(self) -> list[str]:
        """Codes of languages, as given or as the units say."""
        spoken, written = self.config.get("source_lang"), self.config.get("target_lang")
        found = [spoken, written, *(each.language for each in self.inventories.values())]
        return list(self.language) or list(dict.fromkeys(each for each in found if each))

    @property
    def task(self) -> str:
        """The hub's name for what the model does."""
        if self.model_class in _OTHERS:
            return _OTHERS[self.model_class][0]
        if "unit_classifier" in self.config or not {"labels", "joint", "transf_decoder", "decoding"} & set(
            self.config
        ):
            return "feature-extraction"
        return "automatic-speech-recognition"

    def text(self, name: str) -> str:
        """The card in Markdown, with the hub's front matter.

        Args:
            name: ``user/name`` on the hub.
        """
        parts = [
            f"---\n{yaml.safe_dump(self._front_matter(name), sort_keys=False, allow_unicode=True)}---",
            f"# {name.split('/')[-1]}",
            self._about(),
            "## How to use",
            self._usage(name),
            *self._section("Data", self._data()),
            *self._section("Units", self._units()),
            *self._section("Results", self._results()),
            *self._section("Recipe", self._recipe()),
            f"## Licence\n\n{self.licence}",
        ]
        return "\n\n".join(parts) + "\n"

    def _front_matter(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "library_name": "nemo",
            "license": self.licence,
            "pipeline_tag": self.task,
            "tags": ["nemo", "nemo_speechlm", "speech", self.model_class],
        }
        if self.languages:
            found["language"] = self.languages
        if self.results:
            found["model-index"] = [
                {"name": name.split("/")[-1], "results": [self._indexed(result) for result in self.results]}
            ]
        return found

    def _indexed(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """A result as the hub lists them: rates in percent."""
        rates = [(rate, round(100 * result[rate], 2)) for rate in ("wer", "cer") if result.get(rate) is not None]
        scores = [(score, result[score]) for score in ("bleu", "chrf") if result.get(score) is not None]
        how = _how(result)
        metrics = [
            {"type": name, "name": f"{name.upper()} ({how})" if how else name.upper(), "value": value}
            for name, value in (*rates, *scores)
        ]
        dataset = {"name": _name(result["manifest"]), "type": _name(result["manifest"])}
        return {"task": {"type": self.task}, "dataset": dataset, "metrics": metrics}

    def _about(self) -> str:
        encoder = self.config.get("encoder") or {}
        layers = [
            (encoder.get(half) or {}).get("n_layers") for half in ("speech_transformer", "shared_transformer")
        ]  # fmt: skip
        shape = f", {layers[0]} + {layers[1]} layers of width {encoder.get('d_model')}" if all(layers) else ""
        return (
            f"A `{self.model_class}` of nemo_speechlm {__version__} for NVIDIA NeMo ([SpeechLM]"
            f"(https://arxiv.org/abs/2209.15329)): {self.parameters / 1e6:.1f} M parameters{shape}; audio of "
            f"{self.config.get('sample_rate', 16000)} Hz."
        )

    def _usage(self, name: str) -> str:
        python = ["from nemo_speechlm.hub.models import from_pretrained", "", f'model = from_pretrained("{name}")']
        if self.model_class in _OTHERS:
            _, command, method = _OTHERS[self.model_class]
            shell = f"nemo-speechlm {command} model={name}" if command else ""
            python.append(method)
        elif self.task == "automatic-speech-recognition":
            command = "translate" if self.config.get("task") == "translation" else "transcribe"
            shell = f"nemo-speechlm {command} model={name} input=recording.wav"
            python.append('print(model.transcribe(["recording.wav"]))')
        else:
            shell = f"nemo-speechlm extract_features model={name} input=recordings/ output=features"
            python.append("features, lengths = model.extract_features(waveform, length)  # (B, T) and (B,)")
        first = f"```bash\n{shell}\n```\n\n" if shell else ""
        return f"{first}```python\n" + "\n".join(python) + "\n```"

    def _data(self) -> Iterator[str]:
        if self.data:
            yield self.data
        rows = []
        for part in ("train_ds", "validation_ds"):
            for key, value in leaves(self.config.get(part), f"{part}."):
                if key.endswith("manifest_filepath") and value:
                    digests = " ".join(file.get("sha256", "")[:12] for file in self._files().get(f"model.{key}", []))
                    rows.append(f"| {key.removesuffix('.manifest_filepath')} | {_joined(value)} | {digests} |")
        if rows:
            yield "\n".join(["| part | manifests | SHA-256 |", "|---|---|---|", *rows])
        start = self._files().get("model.init_from_pretrained") or []
        if start:
            yield "It began with the weights of " + ", ".join(
                f"{file['name']} (SHA-256 {file.get('sha256', 'not known')[:12]})" for file in start
            ) + "."  # fmt: skip

    def _files(self) -> Mapping[str, list[dict[str, Any]]]:
        return (self.run or {}).get("files", {})

    def _units(self) -> Iterator[str]:
        for key, units in self.inventories.items():
            silence = f", silence is `{units.silence}`" if units.silence is not None else ""
            shown = " ".join(units.symbols[:12]) + (" ..." if len(units.symbols) > 12 else "")
            yield (
                f"{len(units.symbols)} {units.kind} units ({key}), language {units.language}, {units.frame_rate:g} "
                f"frames a second{silence}: {shown}"
            )
        labels = self.config.get("labels")
        if labels:
            yield f"It writes {len(labels)} characters: `{''.join(map(str, labels))}`"

    def _results(self) -> Iterator[str]:
        rates = [rate for rate in ("wer", "cer", "per") if any(rate in result for result in self.results)]
        scores = [score for score in ("bleu", "chrf") if any(score in result for result in self.results)]
        rows = [
            "| "
            + " | ".join([
                _name(result["manifest"]), _counted(result), _how(result),
                *(_rate(result, rate) for rate in rates), *(str(result.get(score, "")) for score in scores),
            ])
            + " |"
            for result in self.results
        ]  # fmt: skip
        if rows:
            heads = ["test set", "utterances", "decoding", *map(str.upper, (*rates, *scores))]
            yield "\n".join([f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *rows])
            yield "Rates by `nemo-speechlm speechlm_evaluate`; in brackets, confidence intervals by resampling."

    def _recipe(self) -> Iterator[str]:
        known = {**(self.run or {}).get("settings", {}), **(self.run or {}).get("free", {})}
        rows = [f"| `{key}` | {known[key]} |" for key in _RECIPE if known.get(key) is not None]
        if rows:
            yield "\n".join(["| key | value |", "|---|---|", *rows])
        accepted = [line for change in (self.run or {}).get("accepted", []) for line in change["changes"]]
        if accepted:
            named = (re.sub(r'(?:[^/\s"]*/)+', "", line) for line in accepted)  # files, without their folders
            yield "The run went on with changes:\n\n" + "\n".join(f"- {line}" for line in named)
        config = yaml.safe_dump(dict(self.config), sort_keys=False, allow_unicode=True)
        yield f"<details><summary>The model's config</summary>\n\n```yaml\n{config}```\n\n</details>"

    def _section(self, title: str, paragraphs: Iterator[str]) -> list[str]:
        found = list(paragraphs)
        return [f"## {title}", *found] if found else []


def _how(result: Mapping[str, Any]) -> str:
    """How the texts were found: the decoding, with what is not in the model."""
    named = {"lm": "language model", "tuned_on": "tuned on"}
    plain = ("beam_size", "lm_weight", "word_score", "length_penalty")
    parts = [str(result["decoding"])] if result.get("decoding") else []
    parts += [f"{title} {_name(result[key])}" for key, title in named.items() if result.get(key) is not None]
    parts += [f"{key} {result[key]}" for key in plain if result.get(key) is not None]
    return ", ".join(parts)


def _counted(result: Mapping[str, Any]) -> str:
    """The utterances of a result, and those that were left out of it."""
    left_out = f", {result['skipped']} left out" if result.get("skipped") else ""
    return f"{result['utterances']}{left_out}"


def _rate(result: Mapping[str, Any], rate: str) -> str:
    value, interval = result.get(rate), result.get(f"{rate}_interval")
    if value is None:
        return "undefined"
    return f"{value:.2%}" + (f" [{interval[0]:.2%}, {interval[1]:.2%}]" if interval else "")


def without_folders(value: Any, key: str = "") -> Any:
    """A value of a config whose files are named without the folders that they are in on the author's machine."""
    if isinstance(value, Mapping):
        return {name: without_folders(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item, key) for item in value]
    if not isinstance(value, str):
        return value
    is_path = key in FILE_KEYS or (key == "model" and value.endswith(".nemo"))  # a model may be user/name of the hub
    return _name(value) if is_path else value


def _name(path: str) -> str:
    return ",".join(PurePath(each).name for each in path.split(","))


def _list(value: Any) -> list[str]:
    values = value if isinstance(value, list) else str(value).split(",")
    return [str(each[0] if isinstance(each, list) else each) for each in values]


def _joined(value: Any) -> str:
    return ", ".join(_list(value))
