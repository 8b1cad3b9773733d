"""Evaluation: how any encoder is measured. The tasks themselves are the files of `tasks`.

`subjects`: the models under evaluation. `features`: what they compute, kept on disk. `heads`: what is trained on top. `statistics`:
scores and intervals. `kinds`: what tasks of one kind share. `suite`: runs tasks on models and writes the ledger.
"""
