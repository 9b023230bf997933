"""Post-training quantization of bundles with NNCF; needs the extra ``export``.

`studies` reads what to calibrate and to judge on, `lab` runs the float bundle and listens to its
graphs, `layers` and `ptq` quantize one graph, `control` gives precision back, `drift` says what
changed in features and answers, `cost` measures, `report` writes it down, `build` does it all.
"""
