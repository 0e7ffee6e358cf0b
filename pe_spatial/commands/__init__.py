"""The commands of `pe-spatial NAME`: one file each."""
