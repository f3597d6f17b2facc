"""Language models: ARPA files, Kneser-Ney, the tools of others, unit bigrams."""
