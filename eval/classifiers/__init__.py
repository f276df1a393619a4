"""Small classifiers that score decoded and generated signals. They are trained on real data and cached."""
