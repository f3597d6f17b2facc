"""From a recipe to a trained .nemo file: runs, their continuation, what watches over their steps."""
