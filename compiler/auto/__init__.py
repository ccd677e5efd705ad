"""``--precision auto``: the fastest precisions that a budget of accuracy allows, measured."""
