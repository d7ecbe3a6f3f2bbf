"""Charts, overlays, previews and HTML pages."""
