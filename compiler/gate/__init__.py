"""The gate of a pipeline: models x targets x precisions against thresholds, for ``burnish check``.

:func:`burnish.gate.load.load_config` reads a configuration, :func:`burnish.gate.run.run_gate`
checks it. Nothing is imported here: a process that measures memory starts in this package.
"""
