"""From a CTC model's log probabilities to text: greedy and beam decoding, language models, times, tuning."""
