"""From data of one's own to a run: recognizes the data, composes a recipe for it, and trains.

Nothing heavy is imported by this module, by `models` or by `request`: the command line reads its options from them.
"""
