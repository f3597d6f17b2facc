r"""Speech in one language to text in another: audio files and folders, of any length and sample rate.

    python examples/translate.py model=st.nemo input=interview.mp3
    python examples/translate.py model=st.nemo input=recordings/ output=translations format=[text,srt]

Long recordings are cut at pauses, and each part is translated by itself. Otherwise like transcribe.py.
"""

from omegaconf import DictConfig

from nemo_speechlm.checks import check_number
from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.errors import InputError
from nemo_speechlm.imports import importing


@command("translate")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "beam_size", least=1)
    if cfg.length_penalty is not None:
        check_number("length_penalty", cfg.length_penalty)
    from nemo_speechlm.inference.inputs import inputs_of

    inputs_of(cfg)
    with importing():
        from nemo_speechlm.inference.recognition import longest_audio, restore
        from nemo_speechlm.inference.recognizers import PlainRecognizer
        from nemo_speechlm.inference.search import is_translation, set_search
        from nemo_speechlm.inference.transcript_files import run_transcription
        from nemo_speechlm.models.common.batching import depends_on_padding

    model = restore(cfg.model, cfg.device)
    if not is_translation(model):
        raise InputError("recognizes speech, it does not translate; transcribe.py takes it", cfg.model)
    set_search(model, beam_size=cfg.beam_size, length_penalty=cfg.length_penalty)
    recognize = PlainRecognizer(model, cfg.precision)
    sample_rate = int(model.cfg.get("sample_rate", 16000))
    run_transcription(cfg, recognize, sample_rate, longest_audio(model), depends_on_padding(model))


if __name__ == "__main__":
    main()
