"""The steps that make what rows share: the corpus, text, phoneme units, hidden units, tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from nemo_speechlm.demo.ablations.rows import Data, Row
from nemo_speechlm.demo.overrides import option
from nemo_speechlm.demo.workflow import Step
from nemo_speechlm.program import COMMANDS


def step(name: str, script: str, output: Path, *arguments: object, needs: Sequence[str] = ()) -> Step:
    """A step that is one of the commands."""
    return Step(name, (str(COMMANDS / script), *map(str, arguments)), output, tuple(needs))


@dataclass(frozen=True)
class Prepared:
    """Where the shared files are, and which steps make them.

    Attributes:
        cfg: of the ablation.
        folder: for all of them.
        data: what was given.
        corpus: the step that makes the data; none if they were given.
    """

    cfg: DictConfig
    folder: Path
    data: Data
    corpus: tuple[str, ...]

    @classmethod
    def of(cls, cfg: DictConfig, folder: Path) -> "Prepared":
        """From ``cfg.data``; null stands for the corpus that makes itself."""
        if cfg.data is not None:
            return cls(cfg, folder, Data.in_folder(cfg.data), ())
        made = folder / "corpus"
        train, unlabeled, valid, test = (made / f"{name}.json" for name in ("train", "untranscribed", "valid", "test"))
        return cls(cfg, folder, Data(train, unlabeled, valid, test, made / "text.txt"), ("corpus",))

    def text(self, row: Row) -> tuple[Path, str]:
        """The sentences of a row, and the step that makes them."""
        name = "text" if row.text is None else f"text_{row.text}"
        return self.folder / f"{name}.json", name

    def text_units(self, row: Row, hidden: bool) -> tuple[Path, str]:
        """The same with units."""
        name, kind = self.text(row)[1], "hidden" if hidden else "units"
        return self.folder / f"{name}.{kind}.json", f"{kind}_{name}"

    @property
    def parts(self) -> dict[str, Path]:
        """Speech that gets units, by name."""
        found = {"train": self.data.train, "unlabeled": self.data.unlabeled, "valid": self.data.valid}
        return {name: path for name, path in found.items() if path is not None}

    def steps(self, rows: Sequence[Row]) -> list[Step]:
        """What the rows need, in an order in which it can be done."""
        systems = {row.system for row in rows}
        phones = bool(systems & {"speechlm_p", "mixed"})
        hidden = bool(systems & {"speechlm_h", "mixed"})
        found = [] if self.cfg.data is not None else [self._corpus()]
        if systems != {None}:
            found += self._texts(rows)
        if phones:
            found += self._phoneme_units(rows)
        if hidden:
            found += self._hidden_units(rows)
        if "slam" in systems:
            arguments = (
                option("source", [self.folder / "text.json", self.data.train]),
                option("output", self.folder / "tokens"),
            )
            size = f"vocab_size={self.cfg.vocab_size}"
            made = self.folder / "tokens" / "tokenizer.model"
            words = (*arguments, size, *self.cfg.tokens_set)
            found.append(step("tokens", "train_tokenizer.py", made, *words, needs=("text",)))
        return found

    def _corpus(self) -> Step:
        made = self.folder / "corpus"
        amounts = [f"{key}={value}" for key, value in self.cfg.corpus.items()]
        arguments = ("corpus=demo", option("output", made), f"seed={self.cfg.seed}", *amounts)
        return step("corpus", "prepare_data.py", made / "text.txt", *arguments)

    def _texts(self, rows: Sequence[Row]) -> list[Step]:
        found = [
            step(
                "text", "prepare_text.py", self.folder / "text.json", option("source", self.data.text),
                option("output", self.folder / "text.json"), f"valid_lines={self.cfg.valid_lines}",
                option("valid_output", self.folder / "valid_text.json"), *self.cfg.text_set, needs=self.corpus,
            )
        ]  # fmt: skip
        for amount in sorted({row.text for row in rows if row.text}):
            made = self.folder / f"text_{amount}.json"
            arguments = (option("source", self.folder / "text.json"), option("output", made), f"max_lines={amount}")
            arguments += tuple(self.cfg.text_set)  # of the same language, in the same case
            found.append(step(f"text_{amount}", "prepare_text.py", made, *arguments, needs=("text",)))
        return found

    def _phoneme_units(self, rows: Sequence[Row]) -> list[Step]:
        units = self.folder / "units.json"
        found = []
        for name, manifest in self.parts.items():
            made = self.folder / f"{name}.units.json"
            arguments = (
                option("manifest", manifest),
                option("output", made),
                option("units", units),
                option("lm_text", self.folder / "text.json"),
            )
            needs = ("text",) if name == "train" else ("units_train",)
            found.append(
                step(f"units_{name}", "tokenize_speech.py", made, *arguments, *self.cfg.units_set, needs=needs)
            )
        return found + self._tokenized_text(
            rows, ("speechlm_p", "mixed"), False, ("units_train",), *self.cfg.text_units_set
        )

    def _tokenized_text(
        self, rows: Sequence[Row], systems: Sequence[str], hidden: bool, needs: Sequence[str], *arguments: str
    ) -> list[Step]:
        kind = "hidden" if hidden else "units"
        inventory = self.folder / ("hidden_units.json" if hidden else "units.json")
        texts = {"valid_text": ("text", self.folder / "valid_text.json")}
        for row in rows:
            if row.system in systems and row.reads_text:
                path, name = self.text(row)
                texts[name] = name, path
        return [
            step(
                f"{kind}_{name}", "tokenize_text.py", self.folder / f"{name}.{kind}.json",
                option("manifest", path), option("output", self.folder / f"{name}.{kind}.json"),
                option("units", inventory), "workers=1", *arguments,
                needs=(*needs, source),
            )
            for name, (source, path) in texts.items()
        ]  # fmt: skip

    def _hidden_units(self, rows: Sequence[Row]) -> list[Step]:
        folder, data = self.folder, self.data
        phones, units, kmeans = folder / "phones.json", folder / "hidden_units.json", folder / "kmeans.safetensors"
        found = [
            step(
                f"phones_{name}", "tokenize_speech.py", folder / f"{name}.phones.json",
                option("manifest", manifest), option("output", folder / f"{name}.phones.json"),
                option("units", phones), "style=plain", needs=needs,
            )
            for name, manifest, needs in (("train", data.train, self.corpus), ("valid", data.valid, ("phones_train",)))
        ]  # fmt: skip
        arguments = (option("manifest", data.train), option("output", kmeans), *self.cfg.kmeans_set)
        found.append(step("kmeans", "train_kmeans.py", kmeans, *arguments, needs=self.corpus))
        for name, manifest in self.parts.items():
            made = folder / f"{name}.hidden.json"
            arguments = (
                option("kmeans", kmeans),
                option("manifest", manifest),
                option("output", made),
                option("units", units),
            )
            needs = ("kmeans",) if name == "train" else ("hidden_train",)
            found.append(
                step(f"hidden_{name}", "tokenize_speech.py", made, "speech_tokenizer=kmeans", *arguments, needs=needs)
            )
        model = folder / "text_to_unit.nemo"
        manifests = [
            option(f"model.{key}.{kind}", folder / f"{name}.{units_kind}.json")
            for key, name in (("train_ds", "train"), ("validation_ds", "valid"))
            for kind, units_kind in (("manifest_filepath", "hidden"), ("phones_manifest_filepath", "phones"))
        ]
        found.append(
            step(
                "text_to_unit", "train_text_to_unit.py", model, "--config-name", self.cfg.recipes.text_to_unit,
                option("output", model), option("model.phones", phones), option("model.units", units), *manifests,
                option("exp_manager.exp_dir", folder / "runs"), f"seed={self.cfg.seed}", *self.cfg.text_to_unit_set,
                needs=("phones_train", "phones_valid", "hidden_train", "hidden_valid"),
            )
        )  # fmt: skip
        spoken = ("text_tokenizer=text_to_unit", option("model", model), "phone_tokenizer.style=plain")
        return found + self._tokenized_text(rows, ("speechlm_h",), True, ("text_to_unit",), *spoken)
