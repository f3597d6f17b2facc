r"""Put a model on the Hugging Face hub, with a card of what its file, its run and its evaluations say.

    python examples/push_to_hub.py model=ctc.nemo name=me/my-recognizer licence=apache-2.0 \
        run=runs/ctc_small results=[runs/test] data="Three hours of LibriSpeech." folder=to_look_at
    python examples/push_to_hub.py model=ctc.nemo name=me/my-recognizer licence=apache-2.0   # and now for all to see

With folder=, nothing is uploaded: the card (README.md) and the model are written into it. Log in first: hf auth login.
Then model=me/my-recognizer does with transcribe.py, speechlm_evaluate.py and the others.
"""

import re

from omegaconf import DictConfig, ListConfig, OmegaConf

from nemo_speechlm.cli import command
from nemo_speechlm.errors import InputError
from nemo_speechlm.hub.records import read_results, read_run, refuse_other_run
from nemo_speechlm.imports import importing


@command("push_to_hub")
def main(cfg: DictConfig) -> None:
    if re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", str(cfg.name)) is None:
        raise InputError(f"name is {cfg.name!r}, expected user/name")
    run = None if cfg.run is None else read_run(cfg.run)
    with importing():
        from nemo_speechlm.hub.card import Card
        from nemo_speechlm.hub.models import from_pretrained, push_to_hub, write_folder
        from nemo_speechlm.models.common.hub import model_file

    model = from_pretrained(cfg.model, "cpu")
    file = model_file(cfg.model)
    results = read_results(_list(cfg.results), file)
    if run is not None:
        refuse_other_run(run, OmegaConf.to_container(model.cfg, resolve=True), cfg.run)
    card = Card.of(model, cfg.licence, language=_list(cfg.languages), data=cfg.data, run=run, results=results)
    if cfg.folder is not None:
        print("\n".join(map(str, write_folder(model, cfg.folder, cfg.name, card, cfg.overwrite, file))))
    else:
        print(push_to_hub(model, cfg.name, card, private=cfg.private))


def _list(value: object) -> list[str]:
    return [] if value is None else list(value) if isinstance(value, ListConfig) else [str(value)]


if __name__ == "__main__":
    main()
