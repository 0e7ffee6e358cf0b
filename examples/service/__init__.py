"""A model as a web service: bytes of a picture in, JSON or PNG out."""
