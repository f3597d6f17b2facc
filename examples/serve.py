r"""A page to try a model in: record or drop a file, see the text with word times over the spectrogram, and the units.

    python examples/serve.py model=ctc.nemo
    python examples/serve.py model=ctc.nemo units=pretrained.nemo port=8001

Then open http://127.0.0.1:8000/ in a browser. Any model that transcribe.py takes will do, and translation models. The
page works without a network, and nothing leaves this machine. It needs the extra ``serve``.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command, whole_numbers


@command("serve")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "beam_size", "beam_size_token", least=1)
    from nemo_speechlm.serving.run import check_options, serve

    serve(cfg, check_options(cfg))


if __name__ == "__main__":
    main()
