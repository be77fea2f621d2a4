"""nnrules_runtime: the executor of plans. It is built in step 2; so far the package holds this text only.

It will preprocess, train, predict and evaluate exactly as a plan says, and decide nothing itself. It will
need torch (``pip install "nnrules[runtime]"``). Of nnrules it may import ``plan``, ``schema``,
``resources``, ``errors``, ``axes``, ``image_io``, ``dataset`` and ``documents``, never the engine and never
a rule; import-linter holds it to that.
"""

__version__ = "0.1.0"
