"""Models on disk: teachers are read (`pretrained`), students are written and read (`student`), as folders in Hugging Face format.

Nothing is imported here, so that ``import sottovoce`` stays fast.
"""
