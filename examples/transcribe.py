r"""Speech to text: audio files and folders, of any length, sample rate and number of channels.

    python examples/transcribe.py model=ctc.nemo input=interview.mp3
    python examples/transcribe.py model=ctc.nemo input=[recordings/,more.wav] output=texts format=[text,srt]

WAV, FLAC, MP3, Ogg, Opus and whatever else libsndfile reads. Long recordings are cut at pauses; CTC models tell when
each word was said. A file that cannot be read is named at the end, with status 1, and the others are done. To
continue after an interruption, give the same command again.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.imports import importing


@command("transcribe")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "beam_size", "beam_size_token", least=1)
    from nemo_speechlm.decoding.options import DecodingOptions
    from nemo_speechlm.inference.inputs import inputs_of

    options = DecodingOptions.of(cfg)
    inputs_of(cfg)
    with importing():
        from nemo_speechlm.inference.recognition import longest_audio, restore
        from nemo_speechlm.inference.recognizers import make_recognizer
        from nemo_speechlm.inference.transcript_files import run_transcription
        from nemo_speechlm.models.common.batching import depends_on_padding

    model = restore(cfg.model, cfg.device)
    recognize = make_recognizer(model, cfg, options)
    sample_rate = int(model.cfg.get("sample_rate", 16000))
    run_transcription(cfg, recognize, sample_rate, longest_audio(model), depends_on_padding(model))


if __name__ == "__main__":
    main()
