"""From a recipe to a trained .nemo file: runs, their continuation, what watches over their steps."""

from nemo_speechlm.training.run import train

__all__ = ["train"]
