"""Gallery of a report: pictures and sounds of several codecs, at an equal rate and at every measured setting."""
