"""How is a fuzzing run reported? As JSON, a page, Markdown, JUnit."""
