"""Small networks that score decoded and generated signals. The evaluation trains them on real data when needed."""
