"""The backbones inside other libraries; nothing else of the toolkit imports this package."""
