"""pytest in this checkout alone (not in the wheel): what the laws need stands in the plugin."""

# `pytest .` would else collect the laws twice; `pytest properties` still works.
collect_ignore = ["properties"]
