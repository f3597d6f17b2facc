"""The paper's ablations: rows that are pretrained, fine-tuned and evaluated by the commands, and their table."""
