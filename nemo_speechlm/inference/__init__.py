"""A model over audio or text: recognition, long recordings, features, export."""
