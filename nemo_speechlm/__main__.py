"""``python -m nemo_speechlm``, the same as ``nemo-speechlm``."""

from nemo_speechlm.program import main

if __name__ == "__main__":
    main()
