"""A procedural category in MAD's layout: a brick bird, ray cast from many sides."""
