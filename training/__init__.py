"""Training: the curriculum of rnx-mini, and fine-tuning on lists of your own. Not part of the
installed package.
"""
