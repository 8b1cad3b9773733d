"""Evaluation of encoders on the tasks in `sottovoce.tasks`.

`subjects`: the models under evaluation. `features`: their features, kept on disk. `heads`: probes and decoders. `statistics`: scores and
intervals. `kinds`: base classes of tasks. `suite`: runs tasks on models and writes records.
"""
