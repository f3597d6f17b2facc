r"""Speech to text: audio files and folders, of any length, sample rate and number of channels.

    python examples/transcribe.py model=ctc.nemo input=interview.mp3
    python examples/transcribe.py model=ctc.nemo input=[recordings/,more.wav] output=texts format=[text,srt]

WAV, FLAC, MP3, Ogg, Opus and whatever else libsndfile reads. Long recordings are cut at pauses; CTC models tell when
each word was said. A file that cannot be read is named at the end, with status 1, and the others are done. To
continue after an interruption, give the same command again.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command, whole_numbers


@command("transcribe")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "beam_size", "beam_size_token", least=1)
    from nemo_speechlm.decoding.options import DecodingOptions
    from nemo_speechlm.inference.inputs import inputs_of

    options = DecodingOptions.of(cfg)
    inputs_of(cfg)
    from nemo_speechlm.decoding.tokens import is_ctc, require_ctc
    from nemo_speechlm.inference.recognition import choose_strategy, longest_audio, restore
    from nemo_speechlm.inference.recognizers import CTCRecognizer, PlainRecognizer, Recognizer
    from nemo_speechlm.inference.search import has_attention_decoder, set_search
    from nemo_speechlm.inference.transcript_files import run_transcription

    model = restore(cfg.model, cfg.device)
    recognize: Recognizer
    if is_ctc(model) or options.lm is not None:
        recognize = CTCRecognizer(require_ctc(model), options, cfg.precision)
    else:
        if has_attention_decoder(model):
            set_search(model, beam_size=1 if cfg.decoding == "greedy" else cfg.beam_size)
        elif cfg.decoding is not None:
            choose_strategy(model, options.kind, options.beam_size)
        recognize = PlainRecognizer(model, cfg.precision)
    run_transcription(cfg, recognize, int(model.cfg.get("sample_rate", 16000)), longest_audio(model))


if __name__ == "__main__":
    main()
