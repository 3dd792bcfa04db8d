"""The pretrained networks, one file each, and how their weights come in."""
