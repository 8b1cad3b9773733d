"""How fast models are, each beside the others; and what single parts cost on this machine, for budgets in latency.

Nothing is imported here: the processes in which models run are to hold what their runtime needs, and no more.
"""
