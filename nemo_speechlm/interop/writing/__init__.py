"""Write our models in the released code's format."""
