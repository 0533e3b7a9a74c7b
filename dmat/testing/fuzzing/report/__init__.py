"""The reports of a fuzzing run: JSON, an HTML page, Markdown and JUnit XML."""
